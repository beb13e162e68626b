"""Insert deduplication: new metadata has forgotten which inserts there were. Nothing can bring that back, so the plan says
it; what is inserted from then on is remembered as before, also where parts were attached again without deduplication."""

import pytest
import tables
from programs import DONE
from rig import Cluster

ROWS = 100
VALUES = ", ".join(f"({number})" for number in range(ROWS))


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper."""
    with Cluster(shards=1, replicas=2) as made:
        made.query_all("CREATE DATABASE d")
        made.start_rekeeper()
        yield made


def create(cluster: Cluster, name: str) -> str:
    """With one insert, which is known: sent again, it adds nothing."""
    for host in cluster.hosts:
        host.query(
            f"CREATE TABLE d.{name} (id UInt64) ENGINE = ReplicatedMergeTree('/tables/01/d/{name}', '{{replica}}')"
            f" PARTITION BY tuple() ORDER BY id SETTINGS {tables.NEVER_MERGES}"
        )
    assert [insert(cluster, f"d.{name}") for _ in range(2)] == [ROWS, ROWS]
    return f"d.{name}"


def insert(cluster: Cluster, table: str) -> int:
    """The same rows as ever; how many there are then on both replicas."""
    cluster.hosts[0].query(f"INSERT INTO {table} VALUES {VALUES}")
    cluster.hosts[1].query(f"SYSTEM SYNC REPLICA {table}")
    first, second = (int(host.value(f"SELECT count() FROM {table}")) for host in cluster.hosts)
    assert first == second
    return first


def test_bare_statements_forget_it_in_silence(cluster):
    table = create(cluster, "bare")
    cluster.query_all(f"DETACH TABLE {table} PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete("/tables/01/d/bare", recursive=True)
    cluster.query_all(f"ATTACH TABLE {table}")
    for host in cluster.hosts:
        host.query(f"SYSTEM RESTORE REPLICA {table}")
    assert insert(cluster, table) == 2 * ROWS


def test_the_plan_says_so_and_later_inserts_are_known_again(cluster):
    table, rekeeper = create(cluster, "kept"), cluster.rekeeper
    answer = rekeeper("plan", "kept", "--table", table, "--restart", "never", "-o", "json").expect(DONE)
    assert "DEDUPLICATION_FORGOTTEN" in {finding["code"] for finding in answer.json["warnings"]}
    rekeeper("start", "kept", "--yes").expect(DONE)
    assert insert(cluster, table) == 2 * ROWS, "as the warning says"
    assert insert(cluster, table) == 2 * ROWS, "and only once"
