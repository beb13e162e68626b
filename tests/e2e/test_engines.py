"""What other versions of ClickHouse do otherwise than the one that the other modules run on: real servers, and that one."""

import contextlib
from types import SimpleNamespace

import pytest
from clickhouse import StatementFailed
from hosts import ENGINES
from processes import wait_for
from programs import BLOCKED, DONE
from rig import Cluster


@pytest.fixture(scope="module", params=ENGINES)
def cluster(request):
    """Two replicas of one shard on that version, with Rekeeper."""
    with Cluster(shards=1, replicas=2, engine=request.param) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


def create(cluster: Cluster, name: str, settings: str = "", replica: str = "replica") -> SimpleNamespace:
    """A table on both replicas."""
    engine = f"ReplicatedMergeTree('/tables/{{shard}}/d/{name}', '{{{replica}}}') ORDER BY id"
    cluster.query_all(f"CREATE TABLE d.{name} (id UInt64) ENGINE = {engine} {settings}")
    first, second = cluster.hosts
    return SimpleNamespace(name=f"d.{name}", first=first, second=second, plans=iter(range(1, 9)), table=name)


def migrate(cluster: Cluster, table: SimpleNamespace, restart: str = "never") -> None:
    """It is planned without a blocker, and completed."""
    name = f"{table.table}-{next(table.plans)}"
    found = cluster.rekeeper("plan", name, "--table", table.name, "--restart", restart, "-o", "json")
    assert found.expect(DONE).json["blockers"] == []
    cluster.rekeeper("start", name, "--yes").expect(DONE)
    assert cluster.rekeeper.status(name)["state"] == "COMPLETED"


def counts(cluster: Cluster, table: SimpleNamespace) -> set[int]:
    """Rows on each host."""
    for host in cluster.hosts:
        host.query(f"SYSTEM SYNC REPLICA {table.name}")
    return {int(host.value(f"SELECT count() FROM {table.name}")) for host in cluster.hosts}


def test_equal_parts(cluster):
    """RESTORE takes equal parts for one, up to 26.5: 10 of 50 rows and no error. ATTACH PART does so, too."""
    table = create(cluster, "equal", "SETTINGS replicated_deduplication_window = 0")
    cluster.query_all(f"SYSTEM STOP MERGES {table.name}")
    for _ in range(5):
        table.first.query(f"INSERT INTO {table.name} SELECT number FROM numbers(10)")
    # As most tables have it: then the engine compares what it attaches.
    cluster.query_all(f"ALTER TABLE {table.name} RESET SETTING replicated_deduplication_window")
    migrate(cluster, table)
    assert counts(cluster, table) == {50}
    migrate(cluster, table, restart="once")
    assert counts(cluster, table) == {50}


def test_outdated_parts_give_their_names_away(cluster):
    """Up to 26.1 RESTORE leaves them in detached/ under names that ATTACH PARTITION takes: 50 rows became 100."""
    table = create(cluster, "outdated", "SETTINGS old_parts_lifetime = 6000")
    for number in range(5):
        table.first.query(f"INSERT INTO {table.name} SELECT number + {number * 10} FROM numbers(10)")
    # A replica that comes late fetches the merged part alone.
    cluster.query_all(f"SYSTEM SYNC REPLICA {table.name} LIGHTWEIGHT")
    table.first.query(f"OPTIMIZE TABLE {table.name} FINAL SETTINGS alter_sync = 2")
    outdated = f"SELECT count() FROM system.parts WHERE database = 'd' AND table = '{table.table}' AND NOT active"
    assert [host.value(outdated) for host in cluster.hosts] == ["5", "5"]
    migrate(cluster, table)
    table.first.query(f"ALTER TABLE {table.name} ATTACH PARTITION tuple()")
    assert counts(cluster, table) == {50}
    migrate(cluster, table)
    assert counts(cluster, table) == {50}


def test_a_foreign_database_blocks_nothing(cluster):
    """Of one of them system.detached_tables fails as a whole (48), unless it is not asked about."""
    table = create(cluster, "beside")
    table.first.query(f"INSERT INTO {table.name} SELECT number FROM numbers(10)")
    cluster.query_all("CREATE DATABASE foreign ENGINE = Dictionary")
    try:
        migrate(cluster, table)
    finally:
        cluster.query_all("DROP DATABASE foreign")
    assert counts(cluster, table) == {10}


def configure(host, text: str, says: str) -> None:
    """Give the host that configuration, and wait until it is the one that the agent reads."""
    host.config.write_text(text)

    def is_read() -> bool:
        with contextlib.suppress(StatementFailed):  # Another folder of a disk is refused, and noted nevertheless.
            host.query("SYSTEM RELOAD CONFIG")
        return says in host.active_config.read_text()

    wait_for(is_read, lambda: f"the server to look at its configuration: {host.active_config.read_text()}")


def test_a_configuration_that_was_changed_since_the_start(cluster):
    """The next start would take the table elsewhere; servers take macros by themselves, and no other folder of a disk."""
    # This macro is in no configuration, and 25.8 leaves it in the definition. Embedded engines have none.
    is_server = cluster.hosts[0].value("SELECT toUInt8(serverUUID() != toUUID('00000000-0000-0000-0000-000000000000'))")
    replica = "server_uuid" if is_server == "1" else "replica"
    table = create(cluster, "changed", "SETTINGS storage_policy = 'object_storage'", replica)
    host = table.first
    former = host.config.read_text()
    plan = ("plan", "changed", "--table", table.name, "--restart", "never", "-o", "json")
    for old, new, says in [
        ("<shard>", "<shard>x", "is /tables/x01/d/changed instead of /tables/01/d/changed"),
        ("/object_storage/</path>", "/elsewhere/</path>", "disk object_storage is at"),
    ]:
        configure(host, former.replace(old, new), new)
        found = cluster.rekeeper(*plan).expect(BLOCKED).json["blockers"]
        assert {(finding["code"], finding["host"]) for finding in found} == {("CONFIGURATION_CHANGED", host.name)}
        assert says in found[0]["message"]
        configure(host, former, old)
    migrate(cluster, table)
