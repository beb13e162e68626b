"""An ensemble of three servers: one that lags behind the others, and one that leads and dies."""

import contextlib

import pytest
import tables
from ensemble import Ensemble
from processes import wait_for
from programs import BLOCKED, DONE
from proof import Proof, describe, report
from rig import Cluster
from tables import Table
from writer import Ledger
from zookeeper_proxy import ZooKeeperProxy

LAG = 0.8


class OnEnsemble(Cluster):
    """One shard of two hosts, whose ZooKeeper is an ensemble."""

    def __init__(self):
        super().__init__(shards=1, replicas=2)
        self.zookeeper = self.ensemble = Ensemble(self.directory / "ensemble")
        for host in self.hosts:
            host.configure(self.ensemble)
        describe(self.directory, self.ensemble.address, self.hosts)


@pytest.fixture
def cluster():
    with OnEnsemble() as cluster:
        yield cluster


def migrate(cluster: Cluster, *options) -> None:
    """Plan and start m1, and demand the proof at its end."""
    rekeeper = cluster.rekeeper
    proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
    before = proof.record()
    rekeeper("plan", "m1", *options).expect(DONE)
    rekeeper("start", "m1", "--yes").expect(DONE)
    assert rekeeper.status("m1")["state"] == "COMPLETED"
    assert report(proof.check(before, ledger))


def test_an_agent_whose_server_lags(cluster):
    """What one agent was told that it is done, the other sees, although its own server hears of it much later."""
    tables.create(cluster.shards(), [Table("shop", "orders"), Table("shop", "clients")])
    ahead, behind = cluster.ensemble.servers[0], cluster.ensemble.laggard
    proxy = ZooKeeperProxy(ahead.port)
    rekeeper = cluster.start_rekeeper(proxy)
    # The agents' configurations name the same place: the first session is with the server ahead, later ones are not.
    rekeeper("plan", "m0", "--host", "ch-01-1").expect(BLOCKED)
    proxy.server_port = behind.port
    cluster.ensemble.lag(LAG)
    with ahead.client() as client, behind.client() as late:
        client.create("/lags")
        assert not late.exists("/lags")
    migrate(cluster, "--restart", "never")
    proxy.close()


def die(ensemble: Ensemble) -> None:
    """The leader crashes, another one is elected, and the former one comes back."""
    former = ensemble.leader()
    former.kill()
    others = [server for server in ensemble.servers if server is not former]

    def elected() -> bool:
        with contextlib.suppress(OSError):
            return any(server.is_leader for server in others)
        return False

    wait_for(elected, "another leader")
    former.start()


def test_a_leader_that_dies_in_the_clean_the_attach_and_the_restore(cluster):
    """A table that is read-only without metadata gets no new session with ZooKeeper by itself."""
    tables.create(cluster.shards(), [Table("shop", "orders")])
    ensemble, first = cluster.ensemble, cluster.hosts[0]
    proxy = ZooKeeperProxy(next(server for server in ensemble.servers if not server.is_leader).port)
    rekeeper = cluster.start_rekeeper(proxy)
    proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
    before = proof.record()
    rekeeper("plan", "m1").expect(DONE)
    # Of several multis that delete, not the first.
    proxy.hold("multi", "/tables/01/shop/orders/replicas/.*/parts/", skip=1)
    first.set_faults({"pattern": "^ATTACH TABLE", "wait": True, "after": True})
    started = rekeeper.background("start", "m1", "--yes", output=cluster.directory / "start.out")
    wait_for(lambda: proxy.held, lambda: f"a deletion: {rekeeper('status', 'm1')}", 60)
    die(ensemble)
    proxy.let_go()
    for count, now, then in (1, "ATTACH", "^SYSTEM RESTORE REPLICA"), (2, "RESTORE", None):
        wait_for(lambda: len(first.query_log("held")) == count, lambda: f"{now}: {rekeeper('status', 'm1')}", 120)
        die(ensemble)
        first.set_faults(*([{"pattern": then, "wait": True}] if then else []))
    assert started.wait(300) == DONE, (cluster.directory / "start.out").read_text()
    assert rekeeper.status("m1")["state"] == "COMPLETED"
    assert report(proof.check(before, ledger))
    proxy.close()
