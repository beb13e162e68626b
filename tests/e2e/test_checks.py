"""Every check before anything is changed, provoked on real servers; what provokes none is not blocked."""

import contextlib
import itertools
import json

import pytest
from kazoo.security import OPEN_ACL_UNSAFE, make_acl
from processes import wait_for
from programs import BLOCKED, DONE, Agent
from rig import Cluster
from zookeeper_server import ZooKeeper

NUMBERS = itertools.count(1)
# A shard that nobody answers for.
NOBODY = """<remote_servers><nobody><shard><replica><host>127.0.0.2</host><port>1</port></replica></shard></nobody>
</remote_servers>"""
# What no server of the rig can be brought to, and where it is held instead.
ELSEWHERE = {
    "AGENT_PROTOCOL": "coordinator/tests/agents: all programs of one build speak the same version",
    "AGENT_NOT_CONNECTED": "test_migration.py",
    "MIGRATION_OVERLAP": "test_migration.py",
    "COORDINATOR_BEHIND": "test_loss_store.py",
    "TABLE_DETACHED": "test_loss_store.py",
    "CLICKHOUSE_TOO_OLD": "test_old_server.py, with a real one",
    "ALTER_UNFINISHED": "test_checks_parts.py",
    "CONFIGURATION_CHANGED": "test_engines.py, which has a server of its own",
    "LONG_STATEMENTS": "test_loss_caches.py",
    "REPLICAS_DISAGREE": "coordinator/src/plan/agree.rs: no server tells what is not so",
    "DISK_UNWRITABLE": "test_checks_parts.py",
    "USER_REFUSED": "test_checks_user.py",
    "USER_QUOTA": "test_checks_user.py",
    "HOOK_LEAVES_BEHIND": "test_hook.py",
    "HOOK_LEAVES_TABLES": "test_hook.py",
    "HOOK_NOT_RUN": "test_hook.py",
    "ENSEMBLE_UNTESTED": "test_keeper.py",
    "KEEPER_RESTARTED": "test_keeper_restarted.py",
    "BUFFER_TABLE": "test_loss_writers_around.py",
    "FEED_GIVES_UP": "test_loss_writers_around.py",
    "INSERTS_NOT_WAITED_FOR": "test_loss_writers_around.py",
    "VIEW_ERRORS_IGNORED": "test_loss_writers_around.py",
    "READ_MEANWHILE": "test_loss_writers_around.py",
}


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with Rekeeper, an auxiliary ensemble, and a cluster of which nobody answers."""
    second = None

    class WithSecond(Cluster):
        def __init__(self):
            nonlocal second
            super().__init__(shards=1, replicas=2)
            second = ZooKeeper(self.directory / "second")
            for host in self.hosts:
                host.configure(self.zookeeper, auxiliary={"second": second}, more=NOBODY)
            self.second = second

    with WithSecond() as cluster:
        second.start()
        try:
            cluster.query_all("CREATE DATABASE checks")
            cluster.start_rekeeper()
            yield cluster
        finally:
            second.kill()


def make(cluster: Cluster, name: str, *, path: str = "", settings: str = "", rows: int = 3, hosts=None) -> str:
    """A table on both hosts, or on some; its path."""
    path = path or f"/checks/{name}"
    hosts = hosts or cluster.hosts
    for host in hosts:
        host.query(
            f"CREATE TABLE checks.{name} (a UInt64, b UInt64) ENGINE = ReplicatedMergeTree('{path}', '{{replica}}')"
            f" ORDER BY a {'SETTINGS ' + settings if settings else ''}"
        )
    if rows:
        hosts[0].query(f"INSERT INTO checks.{name} SELECT number, 0 FROM numbers({rows})")
    return path


def plan(cluster: Cluster, *arguments: str, code: int) -> dict:
    """A plan of a new name."""
    return cluster.rekeeper("plan", f"p{next(NUMBERS)}", *arguments, "-o", "json").expect(code).json


@contextlib.contextmanager
def answering(host, pattern: str, instead: str):
    """The host answers one question with something else."""
    host.set_faults({"pattern": pattern, "instead": instead})
    yield
    host.clear_faults()


@contextlib.contextmanager
def queue_stuck(cluster):
    first, second = cluster.hosts
    make(cluster, "queue_stuck", rows=0)
    second.query("SYSTEM STOP FETCHES checks.queue_stuck")
    first.query("INSERT INTO checks.queue_stuck VALUES (1, 1)")
    first.query("DETACH TABLE checks.queue_stuck PERMANENTLY SYNC")
    second.query("SYSTEM START FETCHES checks.queue_stuck")
    tries = (
        "SELECT max(num_tries) FROM system.replication_queue WHERE table = 'queue_stuck' AND last_exception != ''"
        " AND create_time < now() - 11"
    )
    wait_for(lambda: int(second.value(tries)) > 1, "the fetch to fail for a while")
    yield
    first.query("ATTACH TABLE checks.queue_stuck")


@contextlib.contextmanager
def acl_denied(cluster):
    parts = make(cluster, "acl_denied") + "/replicas/r1/parts"
    with cluster.zookeeper.client() as client:
        client.set_acls(parts, [make_acl("world", "anyone", read=True, write=True, create=True, admin=True)])
        yield
        client.set_acls(parts, OPEN_ACL_UNSAFE)


@contextlib.contextmanager
def foreign_nodes(cluster):
    path = make(cluster, "foreign_nodes")
    with cluster.zookeeper.client() as client:
        client.create(f"{path}/locks/leader", b"ch-7", makepath=True)
        client.create(f"{path}/replicas/r1/offsets")
    yield


@contextlib.contextmanager
def acl_no_admin(cluster):
    log = make(cluster, "acl_no_admin") + "/log"
    with cluster.zookeeper.client() as client:
        # Nobody can ever change it again.
        client.set_acls(log, [make_acl("world", "anyone", read=True, write=True, create=True, delete=True)])
    yield


@contextlib.contextmanager
def disk_space(cluster):
    make(cluster, "disk_space")
    with answering(cluster.hosts[0], "free_space", "SELECT 'default', toUInt64(10)"):
        yield


@contextlib.contextmanager
def written_by_view(cluster):
    make(cluster, "written_by_view")
    host = cluster.hosts[0]
    host.query("CREATE TABLE checks.stream (a UInt64) ENGINE = Null")
    host.query("CREATE MATERIALIZED VIEW checks.`v TO x` TO checks.written_by_view AS SELECT a FROM checks.stream")
    # The engine has no Kafka that works, so only its name is injected.
    with answering(host, "ARRAY JOIN", "SELECT 'checks', 'stream', 'Kafka', 'checks', 'v TO x'"):
        yield
    host.query("DROP TABLE checks.`v TO x` SYNC")
    host.query("DROP TABLE checks.stream SYNC")


@contextlib.contextmanager
def distributed_pending(cluster):
    make(cluster, "distributed_pending")
    host = cluster.hosts[0]
    host.query("CREATE TABLE checks.dist (a UInt64) ENGINE = Distributed('nobody', 'checks', 'distributed_pending')")
    host.query("SYSTEM STOP DISTRIBUTED SENDS checks.dist")
    host.query("INSERT INTO checks.dist SETTINGS distributed_foreground_insert = 0 VALUES (1)")
    yield
    host.query("DROP TABLE checks.dist SYNC")


@contextlib.contextmanager
def users_in_zookeeper(cluster):
    make(cluster, "users_in_zookeeper")
    with answering(cluster.hosts[0], "system.user_directories", "SELECT 'replicated'"):
        yield


@contextlib.contextmanager
def ddl_pending(cluster):
    make(cluster, "ddl_pending")
    with answering(cluster.hosts[0], "system.distributed_ddl_queue", "SELECT 'query-0000000001: DROP TABLE x'"):
        yield


@contextlib.contextmanager
def wave_tied(cluster):
    make(cluster, "wave_tied")
    for host, name in zip(cluster.hosts, ("wave_tied_one", "wave_tied_two"), strict=True):
        make(cluster, name, hosts=[host])
    yield


@contextlib.contextmanager
def clickhouse_untested(cluster):
    make(cluster, "clickhouse_untested")
    with answering(cluster.hosts[0], r"^SELECT version\(\)", "SELECT '25.3.1.1'"):
        yield


@contextlib.contextmanager
def versions_differ(cluster):
    make(cluster, "versions_differ")
    with answering(cluster.hosts[0], r"^SELECT version\(\)", "SELECT '26.10.1.1'"):
        yield


@contextlib.contextmanager
def replica_twice(cluster):
    """A replica that is attached elsewhere while its own server is down."""
    name = "replica_twice"
    make(cluster, name)
    cluster.hosts[0].query(f"DETACH TABLE checks.{name} SYNC")
    cluster.hosts[1].query(
        f"ATTACH TABLE checks.{name}_copy UUID '{'1' * 8}-1111-4111-8111-{'1' * 12}' (a UInt64, b UInt64)"
        f" ENGINE = ReplicatedMergeTree('/checks/{name}', 'r1') ORDER BY a"
    )
    cluster.hosts[0].restart()
    yield
    cluster.hosts[1].query(f"DETACH TABLE checks.{name}_copy PERMANENTLY SYNC")


@contextlib.contextmanager
def table_readonly(cluster):
    """A replica that finds itself held by something else when its server starts."""
    held = make(cluster, "table_readonly") + "/replicas/r1/is_active"
    cluster.hosts[0].query("DETACH TABLE checks.table_readonly SYNC")
    with cluster.zookeeper.client() as client:
        client.create(held, b"somebody else")
        cluster.hosts[0].restart()
        yield
        client.delete(held)


@contextlib.contextmanager
def path_unusable(cluster):
    make(cluster, "path_unusable")
    instead = (
        "SELECT database, table, zookeeper_name, '/a/../b', replica_name, toUInt8(is_readonly), zookeeper_exception,"
        " last_queue_update_exception, toUInt64(lost_part_count) FROM system.replicas WHERE table = 'path_unusable'"
    )
    with answering(cluster.hosts[0], "^SELECT database, table, zookeeper_name", instead):
        yield


@contextlib.contextmanager
def path_nested(cluster):
    make(cluster, "path_nested", path="/checks/outer")
    make(cluster, "path_nested_inner", path="/checks/outer/inner")
    yield


@contextlib.contextmanager
def replica_not_planned(cluster):
    path = make(cluster, "replica_not_planned")
    with cluster.zookeeper.client() as client:
        client.create(f"{path}/replicas/ghost")
        yield
        client.delete(f"{path}/replicas/ghost")


@contextlib.contextmanager
def replica_unknown(cluster):
    path = make(cluster, "replica_unknown")
    with cluster.zookeeper.client() as client:
        client.delete(f"{path}/replicas/r2", recursive=True)
    yield


@contextlib.contextmanager
def definitions_differ(cluster):
    path = make(cluster, "definitions_differ")
    with cluster.zookeeper.client() as client:
        columns = client.get(f"{path}/replicas/r2/columns")[0]
        client.set(f"{path}/replicas/r2/columns", columns.replace(b"UInt64", b"UInt32"))
    yield


@contextlib.contextmanager
def mutations_unfinished(cluster):
    make(cluster, "mutations_unfinished")
    cluster.hosts[0].query("ALTER TABLE checks.mutations_unfinished UPDATE b = throwIf(1) WHERE 1 SETTINGS mutations_sync = 0")
    yield
    cluster.query_all("KILL MUTATION WHERE table = 'mutations_unfinished'")


@contextlib.contextmanager
def patch_parts(cluster):
    make(cluster, "patch_parts", settings="enable_block_number_column = 1, enable_block_offset_column = 1")
    cluster.hosts[0].query("UPDATE checks.patch_parts SET b = 1 WHERE a = 1 SETTINGS enable_lightweight_update = 1")
    yield


@contextlib.contextmanager
def lost_parts(cluster):
    path = make(cluster, "lost_parts")
    with cluster.zookeeper.client() as client:
        node = f"{path}/lost_part_count"
        client.set(node, b"2") if client.exists(node) else client.create(node, b"2")
    yield


@contextlib.contextmanager
def detached_collision(cluster):
    make(cluster, "detached_collision")
    host = cluster.hosts[0]
    host.query("ALTER TABLE checks.detached_collision DETACH PARTITION tuple()")
    host.query("INSERT INTO checks.detached_collision VALUES (7, 7)")
    yield


@contextlib.contextmanager
def database_replicated(cluster):
    make(cluster, "database_replicated")
    of = "INNER JOIN system.databases AS d"
    instead = (
        "SELECT t.database, t.name, toString(t.uuid), t.engine, t.engine_full, t.storage_policy, 'Replicated'"
        " FROM system.tables AS t WHERE t.engine LIKE 'Replicated%MergeTree'"
    )
    with answering(cluster.hosts[0], of, instead):
        yield


@contextlib.contextmanager
def zero_copy(cluster):
    make(cluster, "zero_copy", settings="allow_remote_fs_zero_copy_replication = 1, storage_policy = 'object_storage'")
    with answering(cluster.hosts[0], "FROM system.disks WHERE .* NOT IN", "SELECT 'object_storage'"):
        yield


@contextlib.contextmanager
def zookeeper_unreachable(cluster):
    make(cluster, "zookeeper_unreachable", path="second:/checks/zookeeper_unreachable")
    # It can be planned as long as its ensemble answers.
    plan(cluster, "--table", "checks.zookeeper_unreachable", code=DONE)
    cluster.second.kill()
    yield
    cluster.second.start()


@contextlib.contextmanager
def inspection_failed(cluster):
    make(cluster, "inspection_failed")
    cluster.hosts[0].set_faults({"pattern": "FROM system.storage_policies", "code": 48, "message": "Not implemented"})
    yield
    cluster.hosts[0].clear_faults()


@contextlib.contextmanager
def restart_not_configured(cluster):
    make(cluster, "restart_not_configured")
    agent = cluster.agents["ch-01-1"]
    before = agent.configuration
    agent.configure({key: value for key, value in before.items() if key != "restart"})
    agent.restart()
    cluster.rekeeper.wait_for_agents(*cluster.agents)
    yield
    agent.configure(before)
    agent.restart()
    cluster.rekeeper.wait_for_agents(*cluster.agents)


@contextlib.contextmanager
def metadata_version_differs(cluster):
    path = make(cluster, "metadata_version_differs")
    with cluster.zookeeper.client() as client:
        client.set(f"{path}/metadata", client.get(f"{path}/metadata")[0])
    yield


@contextlib.contextmanager
def deduplication_forgotten(cluster):
    make(cluster, "deduplication_forgotten")
    yield


# How each is provoked, and whether it blocks.
CASES = {
    "QUEUE_STUCK": (queue_stuck, True),
    "ACL_DENIED": (acl_denied, True),
    "FOREIGN_NODES": (foreign_nodes, True),
    "ACL_NO_ADMIN": (acl_no_admin, False),
    "DISK_SPACE": (disk_space, False),
    "WRITTEN_BY_VIEW": (written_by_view, False),
    "DISTRIBUTED_PENDING": (distributed_pending, False),
    "USERS_IN_ZOOKEEPER": (users_in_zookeeper, False),
    "DDL_PENDING": (ddl_pending, False),
    "WAVE_TIED": (wave_tied, False),
    "METADATA_VERSION_DIFFERS": (metadata_version_differs, False),
    "CLICKHOUSE_UNTESTED": (clickhouse_untested, False),
    "VERSIONS_DIFFER": (versions_differ, False),
    "REPLICA_TWICE": (replica_twice, True),
    "TABLE_READONLY": (table_readonly, True),
    "PATH_UNUSABLE": (path_unusable, True),
    "PATH_NESTED": (path_nested, True),
    "REPLICA_NOT_PLANNED": (replica_not_planned, True),
    "REPLICA_UNKNOWN": (replica_unknown, True),
    "DEFINITIONS_DIFFER": (definitions_differ, True),
    "MUTATIONS_UNFINISHED": (mutations_unfinished, True),
    "PATCH_PARTS": (patch_parts, True),
    "LOST_PARTS": (lost_parts, True),
    "DETACHED_COLLISION": (detached_collision, True),
    "DATABASE_REPLICATED": (database_replicated, True),
    "ZERO_COPY": (zero_copy, True),
    "ZOOKEEPER_UNREACHABLE": (zookeeper_unreachable, True),
    "INSPECTION_FAILED": (inspection_failed, True),
    "RESTART_NOT_CONFIGURED": (restart_not_configured, True),
    "DEDUPLICATION_FORGOTTEN": (deduplication_forgotten, False),
    "AGENT_DUPLICATE": (None, True),
}


@pytest.mark.parametrize("code", [code for code, (provoke, _) in CASES.items() if provoke])
def test_check(two, code):
    provoke, blocks = CASES[code]
    tables = ["--table", f"checks.{code.lower()}*"]
    with provoke(two):
        found = plan(two, *tables, code=BLOCKED if blocks else DONE)
        kind, other = ("blockers", "warnings") if blocks else ("warnings", "blockers")
        codes = [finding["code"] for finding in found[kind]]
        assert code in codes and code not in [finding["code"] for finding in found[other]]
        assert all(finding["message"] and finding["fix"] for finding in found[kind])
        print(json.dumps([finding for finding in found[kind] if finding["code"] == code], indent=1))
        explained = two.rekeeper("explain", code, "-o", "json").expect(DONE).json
        if explained["may_be_allowed"]:
            table = f"checks.{code.lower()}"
            allowed = plan(two, *tables, "--allow", f"{code}:{table}", code=DONE)
            assert code in [finding["code"] for finding in allowed["warnings"]]


def test_a_replica_under_another_table_name_is_said_where_it_is(two):
    """Nothing is to be started and nothing to be dropped: the table was renamed on one host."""
    make(two, "renamed")
    two.hosts[1].query("RENAME TABLE checks.renamed TO checks.other_name")
    (found,) = plan(two, "--table", "checks.renamed", code=BLOCKED)["blockers"]
    assert found["code"] == "REPLICA_NOT_PLANNED" and "checks.other_name on ch-01-2" in found["message"]
    assert "plan checks.other_name" in found["fix"] and "DROP REPLICA" not in found["fix"]
    plan(two, "--table", "checks.renamed", "--table", "checks.other_name", code=DONE)


def test_every_check_is_provoked(two):
    """By a case above, or elsewhere; the codes of a migration under way have tests of their own."""
    documented = two.rekeeper("explain", "-o", "json").expect(DONE).json
    checks = {entry["code"] for entry in documented if entry["stage"] == "check"}
    assert checks == CASES.keys() | ELSEWHERE.keys()


def test_two_agents_of_one_server_and_two_of_one_name(two):
    """The last one: who was refused is remembered for two minutes."""
    make(two, "agent_duplicate")
    first, second = two.hosts
    for name, of in ("other", first), (first.name, second):
        agent = Agent(two.directory / f"agent-as-{name}", of, two.coordinator)
        agent.configure(agent.configuration | {"host": name})
        agent.start()
        try:

            def refused() -> list[str]:
                name = f"p{next(NUMBERS)}"
                answer = two.rekeeper("plan", name, "--table", "checks.agent_duplicate", "-o", "json")
                found = answer.json["blockers"]
                return [f["message"] for f in found if f["code"] == "AGENT_DUPLICATE" and f["host"] == agent_host]

            agent_host = name
            messages = wait_for(refused, f"a second agent ({name}) to be refused", timeout=20)
            assert ("already" in messages[0]) and first.name in messages[0]
        finally:
            agent.kill()
