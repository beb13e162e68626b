"""ZooKeeper before 3.6 knows no multiRead: agents read one node after the other. A proxy answers as it would."""

import pytest
import tables
from old_zookeeper import OldZooKeeper
from programs import DONE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

TABLES = [Table("shop", "plain"), Table("shop", "partitioned", partition="toInt8(id % 3) - 1")]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper, whose agents have an old ZooKeeper."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        cluster.old = OldZooKeeper(cluster.zookeeper.port)
        cluster.start_rekeeper(cluster.old)
        yield cluster
        cluster.old.close()


def test_a_migration(cluster):
    proof = Proof(cluster.directory)
    before = proof.record()
    cluster.rekeeper("plan", "m", "--restart", "never").expect(DONE)
    cluster.rekeeper("start", "m", "--yes").expect(DONE)
    assert cluster.rekeeper.status("m")["state"] == "COMPLETED"
    assert report(proof.check(before, Ledger(cluster.directory / "m.jsonl")))
    assert cluster.old.refused > 0
