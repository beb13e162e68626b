"""What other versions of ClickHouse do otherwise than the one that the other modules run on: real servers, and that one."""

from types import SimpleNamespace

import pytest
from programs import DONE
from real_server import WHEELS
from rig import Cluster

ENGINES = [*sorted(WHEELS), "26.9"]


@pytest.fixture(scope="module", params=ENGINES)
def cluster(request):
    """Two replicas of one shard on that version, with Rekeeper."""
    with Cluster(shards=1, replicas=2, engine=request.param) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


def create(cluster: Cluster, name: str, settings: str = "") -> SimpleNamespace:
    """A table on both replicas."""
    engine = f"ReplicatedMergeTree('/tables/{{shard}}/d/{name}', '{{replica}}') ORDER BY id"
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
