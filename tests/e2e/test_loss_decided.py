"""Replicas that differ, where it was decided what becomes of their parts: what users drop on the reference, before the
other one's turn, is not missed on that one."""

import pytest
from kazoo.exceptions import NoNodeError
from processes import wait_for
from programs import DONE
from rig import Cluster
from test_loss_diverged import Pair


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard, Rekeeper, and a database."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


def entries(cluster: Cluster, log: str) -> list[str]:
    """What the log still knows."""
    found = []
    with cluster.zookeeper.client() as client:
        for entry in client.get_children(log):
            try:
                found.append(client.get(f"{log}/{entry}")[0].decode())
            except NoNodeError:
                pass
    return found


def test_dropped_on_the_reference_and_forgotten(cluster):
    """r2 brings 7 rows. A partition that both had is dropped on r1, and the log does not know it any more."""
    pair, rekeeper = Pair(cluster, "forgotten"), cluster.rekeeper
    pair.insert(pair.first, 0, 10)
    pair.insert(pair.first, 50, 10, partition=1)
    pair.sync(pair.second)
    pair.accident(pair.first, lambda: pair.insert(pair.second, 100, 7))
    # So that r1 is the reference.
    for number in range(2):
        pair.accident(pair.second, lambda number=number: pair.insert(pair.first, 200 + number, 1))
    rekeeper("plan", "forgotten", "--table", pair.name, "--restart", "never", "--allow", "DIVERGED").expect(DONE)
    held = len(pair.second.query_log("held"))
    pair.second.set_faults({"pattern": "^SYSTEM RESTORE REPLICA", "wait": True})
    following = rekeeper.background("start", "forgotten", "--yes", output=cluster.directory / "forgotten.out")
    try:
        wait_for(lambda: len(pair.second.query_log("held")) > held, lambda: f"{rekeeper('status', 'forgotten')}", 90)
        pair.first.query(f"ALTER TABLE {pair.name} DROP PARTITION 1")
        for number in range(12):
            pair.insert(pair.first, 300 + number, 1)

        def is_forgotten() -> bool:
            # It makes the server look what it may forget.
            pair.insert(pair.first, 1, 1, partition=8)
            pair.first.query(f"ALTER TABLE {pair.name} DROP PARTITION 8")
            return not any("\n1_0_" in entry for entry in entries(cluster, f"{pair.path}/log"))

        wait_for(is_forgotten, "the log to forget the entry", timeout=25)
        pair.second.clear_faults()
        assert following.wait(timeout=150) == DONE
    finally:
        following.terminate()
        following.wait()
    for host in cluster.hosts:
        pair.sync(host)
    assert pair.rows() == [(10 + 7 + 2 + 12,) * 2] * 2
    tables = rekeeper("report", "forgotten", "-o", "json").json["tables"]
    (fates,) = [table["fates"] for table in tables if table["host"] == "ch-01-2"]
    print(fates)
    assert fates["gone"] == 1 and fates["attached_again"] == 1
