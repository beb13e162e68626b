"""A table that cannot go on gets a problem, the others go on, and `retry` finishes it once the cause is gone."""

import contextlib
import random

import pytest
import tables
from kazoo.exceptions import NoNodeError
from kazoo.security import OPEN_ACL_UNSAFE, make_acl
from processes import wait_for
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger
from zookeeper_proxy import ZooKeeperProxy

BAD = Table("shop", "bad", settings=tables.NEVER_MERGES, rows=60, inserts=6)
TABLES = [BAD, Table("shop", "good", rows=60), Table("archive", "good", rows=60)]
PATH = "/tables/01/shop/bad"
# One that passes by itself is tried for minutes, one that does not is told at once.
PASSING = {"code": 241, "message": "Memory limit exceeded"}
LASTING = {"code": 497, "message": "Not enough privileges"}


@pytest.fixture
def two():
    """Two replicas of one shard with Rekeeper and the tables."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        cluster.start_rekeeper()
        yield cluster


def nodes(cluster: Cluster, path: str) -> dict[str, int]:
    """Every lasting node of a path with the transaction that created it."""
    found, unseen = {}, [path]
    with cluster.zookeeper.client() as client:
        while unseen:
            current = unseen.pop()
            stat = client.exists(current)
            if stat and not stat.ephemeralOwner:
                found[current] = stat.czxid
                unseen += [f"{current}/{child}" for child in client.get_children(current)]
    return found


def problems_of(cluster: Cluster, name: str) -> dict[str, set[str]]:
    """The codes of each table's problems."""
    found: dict[str, set[str]] = {}
    for table in cluster.rekeeper.status(name)["tables"]:
        codes = found.setdefault(f"{table['database']}.{table['table']}", set())
        if table["problem"]:
            assert table["problem"]["message"] and table["problem"]["fix"]
            codes.add(table["problem"]["code"])
    return found


def statuses(cluster: Cluster, name: str) -> dict[str, set[str]]:
    """The statuses of each table's replicas."""
    found: dict[str, set[str]] = {}
    for table in cluster.rekeeper.status(name)["tables"]:
        found.setdefault(f"{table['database']}.{table['table']}", set()).add(table["status"])
    return found


class Case:
    """A migration in which the table `bad` meets a failure and the others do not."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.rekeeper = cluster, cluster.rekeeper
        self.proof, self.ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        self.before = self.proof.record()
        self.nodes = nodes(cluster, PATH)
        self.rekeeper("plan", "m1").expect(DONE)

    def fails(self, code: str, status: str) -> None:
        """Start; exit 1, the problem is at `bad` alone, and all others are through."""
        self.rekeeper("start", "m1", "--yes").expect(PROBLEMS)
        self.failed_with(code, status)

    def failed_with(self, code: str, status: str) -> None:
        """What is left when nothing can go on."""
        document = self.rekeeper.status("m1")
        print(document["state"], problems_of(self.cluster, "m1"), statuses(self.cluster, "m1"))
        print(next(t["problem"]["message"] for t in document["tables"] if t["problem"]))
        assert document["state"] == "FAILED" and document["counts"]["failed"] >= 1
        assert problems_of(self.cluster, "m1") == {"shop.bad": {code}, "shop.good": set(), "archive.good": set()}
        good = {"RESTORED"}
        assert statuses(self.cluster, "m1") == {"shop.bad": {status}, "shop.good": good, "archive.good": good}
        assert code in self.rekeeper("problems", "m1").expect(DONE, PROBLEMS).stdout

    def has_its_nodes(self) -> None:
        """No node of the table was deleted, and none of Rekeeper's is left."""
        assert self.nodes.items() <= nodes(self.cluster, PATH).items(), "nodes were deleted"
        assert own_nodes(self.cluster) == []

    def is_in_service(self) -> None:
        """The same, every row is there, on both replicas, and inserts work."""
        self.has_its_nodes()
        lines = self.proof.check(self.before, self.ledger, same_metadata=True)
        assert report(lines)

    def retry_finishes(self) -> None:
        """The cause is gone: `retry` brings the table to the end as well."""
        self.rekeeper("retry", "m1").expect(DONE, PROBLEMS)
        self.rekeeper.wait_for_state("m1", "COMPLETED", timeout=120)
        assert report(self.proof.check(self.before, self.ledger))
        assert own_nodes(self.cluster) == []


def own_nodes(cluster: Cluster) -> list[str]:
    """What Rekeeper has left behind, anywhere."""
    return [path for path in nodes(cluster, "/") if "rekeeper" in path]


def test_detach_that_keeps_failing(two):
    case = Case(two)
    two.host("ch-01-2").set_faults({"pattern": "^DETACH TABLE .*bad", **LASTING})
    case.fails("DETACH_FAILED", "INIT")
    case.is_in_service()
    two.host("ch-01-2").clear_faults()
    case.retry_finishes()


PROTECTED = [make_acl("world", "anyone", read=True, admin=True)]


def test_node_that_may_not_be_deleted(two):
    case = Case(two)
    case.rekeeper("start", "m1", "--until", "detached", "--yes").expect(DONE)
    # No check of a plan asks about this one.
    deep = f"{PATH}/alter_partition_version"
    with two.zookeeper.client() as client:
        client.create(f"{deep}/below")
        client.set_acls(deep, PROTECTED)
        case.fails("ACL_DENIED", "INIT")
        case.is_in_service()
        client.set_acls(deep, OPEN_ACL_UNSAFE)
    case.retry_finishes()


KEEPER_MAP = "<keeper_map_path_prefix>/tables</keeper_map_path_prefix>"


def test_nodes_of_another_application(two):
    """Somebody puts a KeeperMap table below the path when the checks are over, and another program its nodes."""
    for host in two.hosts:
        host.configure(two.zookeeper, more=KEEPER_MAP)
        host.restart()
    case = Case(two)
    case.rekeeper("start", "m1", "--until", "detached", "--yes").expect(DONE)
    first = two.hosts[0]
    first.query(f"CREATE TABLE shop.map (k UInt64, v String) ENGINE = KeeperMap('{PATH[len('/tables'):]}/map') PRIMARY KEY k")
    first.query("INSERT INTO shop.map VALUES (1, 'precious')")
    offsets = f"{PATH}/replicas/r2/offsets"
    with two.zookeeper.client() as client:
        client.create(offsets, b"17")
        case.fails("FOREIGN_NODES", "INIT")
        case.is_in_service()
        problem = next(t["problem"] for t in case.rekeeper.status("m1")["tables"] if t["problem"])
        assert f"{PATH}/map" in problem["message"] and offsets in problem["message"]
        assert first.value("SELECT v FROM shop.map") == "precious" and client.get(offsets)[0] == b"17"
        client.delete(offsets)
        first.query("DROP TABLE shop.map SYNC")
        # 25.8 leaves the table's own node behind.
        with contextlib.suppress(NoNodeError):
            client.delete(f"{PATH}/map", recursive=True)
    case.retry_finishes()


def test_node_that_is_protected_when_deletion_has_begun(two):
    proxy = ZooKeeperProxy(two.zookeeper.port)
    for agent in two.agents.values():
        agent.use_zookeeper(proxy.port)
        agent.restart()
    two.rekeeper.wait_for_agents(*two.agents)
    case = Case(two)
    deep = f"{PATH}/replicas/r2/parts"
    # The marker of the record is replaced by that of the clean.
    proxy.hold("multi", "shop/bad/rekeeper-m1-.*shop/bad/rekeeper-m1-")
    following = case.rekeeper.background("start", "m1", "--yes", output=two.directory / "start.out")
    try:
        wait_for(lambda: proxy.held, "the clean to begin", timeout=60)
        with two.zookeeper.client() as client:
            client.set_acls(deep, PROTECTED)
            proxy.let_go()
            assert following.wait(timeout=200) == PROBLEMS
            case.failed_with("CLEAN_FAILED", "DETACHED")
            # Forward is the only way, so it stays detached; and what could not be deleted is there.
            assert client.exists(deep)
            client.set_acls(deep, OPEN_ACL_UNSAFE)
        case.retry_finishes()
    finally:
        following.terminate()
        following.wait()
        proxy.close()


def test_export_that_is_too_large(two):
    """The limit is the host's own, and nothing is deleted before all is exported."""
    case = Case(two)
    with two.zookeeper.client() as client:
        for number in range(200):
            # Nothing that could be compressed much.
            client.create(f"{PATH}/alter_partition_version/{number}", random.randbytes(64).hex().encode())
    agents = list(two.agents.values())
    for agent in agents:
        agent.configure(agent.configuration | {"znodes_export_limit_bytes": 9_000})
        agent.restart()
    two.rekeeper.wait_for_agents(*two.agents)
    case.fails("EXPORT_TOO_LARGE", "INIT")
    case.is_in_service()
    told = case.rekeeper("problems", "m1").expect(DONE, PROBLEMS).stdout
    assert "znodes_export_limit_bytes" in told
    for agent in agents:
        agent.configure({k: v for k, v in agent.configuration.items() if k != "znodes_export_limit_bytes"})
        agent.restart()
    two.rekeeper.wait_for_agents(*two.agents)
    case.retry_finishes()


def test_restore_that_keeps_failing(two):
    case = Case(two)
    two.host("ch-01-1").set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*bad", **PASSING})
    case.fails("RESTORE_FAILED", "ZK_CLEANED")
    two.host("ch-01-1").clear_faults()
    case.retry_finishes()


@contextlib.contextmanager
def as_soon_as_detached(cluster: Cluster):
    """What is done within comes after the checks and the DETACH on one host, before that on the other."""
    host = cluster.host("ch-01-2")
    host.set_faults({"pattern": "^DETACH TABLE .*bad", "wait": True})
    following = cluster.rekeeper.background("start", "m1", "--yes", output=cluster.directory / "start.out")
    try:
        wait_for(lambda: host.query_log("held"), "DETACH TABLE to arrive", timeout=60)
        yield
        host.clear_faults()
        assert following.wait(timeout=200) == PROBLEMS
    finally:
        following.terminate()
        following.wait()


def test_replica_that_appears_keeps_the_table_from_being_cleaned(two):
    case, ghost = Case(two), f"{PATH}/replicas/ghost"
    with two.zookeeper.client() as client:
        with as_soon_as_detached(two):
            client.create(ghost)
        case.failed_with("NOT_SETTLED", "INIT")
        assert client.exists(ghost)
        case.has_its_nodes()
        client.delete(ghost)
    case.is_in_service()
    case.retry_finishes()


def test_split_brain_keeps_the_table_from_being_cleaned(two):
    """A part of the same name and another content: found before a single node is deleted."""
    case, parts = Case(two), f"{PATH}/replicas/r2/parts"
    with two.zookeeper.client() as client:
        names = sorted(client.get_children(parts))
        node, other = (f"{parts}/{name}" for name in names[:2])
        own, another = client.get(node)[0], client.get(other)[0]
        assert own != another
        with as_soon_as_detached(two):
            client.set(node, another)
        case.failed_with("NOT_SETTLED", "INIT")
        case.has_its_nodes()
        client.set(node, own)
    case.is_in_service()
    case.retry_finishes()
