"""Servers that run nodes of ClickHouse Keeper: of such only one is away at a time, so that the others are a majority.

The node itself is not there, since the rig's engines have none: where it would take clients is a port that leads to
ZooKeeper, or nowhere yet.
"""

import time

import pytest
import tables
from cable import Cable
from hosts import EMBEDDED
from processes import free_port, wait_for
from programs import DONE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

KEEPER = """<keeper_server><server_id>{id}</server_id><tcp_port>{port}</tcp_port>
  <raft_configuration><server><id>{id}</id><hostname>127.0.0.1</hostname></server></raft_configuration>
</keeper_server>"""
TABLE = Table("shop", "orders", rows=60)
# For this long the second server would have been restarted, if nothing kept it from that.
LONG_ENOUGH = 3


@pytest.fixture
def two():
    """Two replicas of one shard, each with a node of Keeper at a port of its own; Rekeeper."""
    ports = {}

    class WithKeeper(Cluster):
        def __init__(self):
            # A server whose build has no Keeper does not start with such a file; the embedded engine does not read it.
            super().__init__(shards=1, replicas=2, engine=EMBEDDED[-1])
            for number, host in enumerate(self.hosts):
                ports[host.name] = free_port()
                host.configure(self.zookeeper, more=KEEPER.format(id=number, port=ports[host.name]))

    with WithKeeper() as cluster:
        cluster.ports = ports
        tables.create(cluster.shards(), [TABLE])
        cluster.start_rekeeper()
        yield cluster


def waiting(cluster: Cluster, pids: list[int]) -> list[bool]:
    """Which hosts have the process that they had."""
    return [host.pid == pid for host, pid in zip(cluster.hosts, pids, strict=True)]


def test_one_after_another(two):
    proof = Proof(two.directory)
    before, pids = proof.record(), [host.pid for host in two.hosts]
    plan = two.rekeeper("plan", "m", "-o", "json").expect(DONE).json
    warned = {w["host"] for w in plan["warnings"] if w["code"] == "KEEPER_RESTARTED"}
    assert warned == {host.name for host in two.hosts}
    with two.rekeeper.background("start", "m", "--yes", output=two.directory / "m.out") as following:
        wait_for(lambda: not all(waiting(two, pids)), "the first restart", timeout=60)
        said = wait_for(lambda: "ClickHouse Keeper" in str(two.rekeeper("status", "m")), "what is waited for")
        time.sleep(LONG_ENOUGH)
        assert said and sum(waiting(two, pids)) == 1, "both are away, or the Keeper of the first one is not waited for"
        first = two.hosts[waiting(two, pids).index(False)]
        cables = [Cable(two.zookeeper.port, at=two.ports[first.name])]
        wait_for(lambda: not any(waiting(two, pids)), "the second restart", timeout=60)
        (second,) = (host for host in two.hosts if host is not first)
        cables.append(Cable(two.zookeeper.port, at=two.ports[second.name]))
        assert following.wait(timeout=120) == DONE
    for cable in cables:
        cable.close()
    assert two.rekeeper.status("m")["state"] == "COMPLETED"
    assert report(proof.check(before, Ledger(two.directory / "m.jsonl")))


def test_nothing_is_said_where_nothing_is_restarted(two):
    plan = two.rekeeper("plan", "m", "--restart", "never", "-o", "json").expect(DONE).json
    assert not [w for w in plan["warnings"] if w["code"] == "KEEPER_RESTARTED"]
