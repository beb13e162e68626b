"""A table that is written to without a pause, on both replicas: it settles, and no acknowledged row is lost."""

import pytest
import tables
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger, Writer

WRITTEN = Table("shop", "written", rows=60)
TABLES = [WRITTEN, Table("shop", "quiet", rows=60)]
PATH = "/tables/01/shop/written"
THREADS = 8
WITHOUT_PAUSE = 1e9


@pytest.fixture
def two():
    """Two replicas of one shard with Rekeeper and the tables."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        cluster.start_rekeeper()
        yield cluster


@pytest.fixture
def proven(two):
    """The rows before, and what was acknowledged since."""
    proof = Proof(two.directory)
    return proof, proof.record(), Ledger(two.directory / "ledger.jsonl")


def writers(cluster: Cluster, ledger: Ledger) -> Writer:
    """One thread for each entry of the list."""
    return Writer(cluster.shards(), [(WRITTEN.database, WRITTEN.name)] * THREADS, ledger, rate=WITHOUT_PAUSE)


def outcomes(cluster: Cluster, step: str) -> list[str]:
    """What came of a step on the written table, in order."""
    events = cluster.rekeeper.events("m1")
    return [e["text"] for e in events if e["kind"] in ("done", "failed") and e["step"] == step and e["target"] == PATH]


def assert_each_once(cluster: Cluster, ledger: Ledger) -> None:
    """An attempt whose outcome is unknown may stand twice; here nothing is cut off, so there must be none."""
    rows = ledger.rows("01", WRITTEN.database, WRITTEN.name)
    assert not any(rows.values()), f"{sum(rows.values())} rows of unknown outcome"
    for host in cluster.hosts:
        twice = f"SELECT count() FROM (SELECT id FROM {WRITTEN.quoted} GROUP BY id HAVING count() > 1)"
        assert host.value(twice) == "0"


def test_table_under_heavy_writes_settles_and_loses_nothing(two, proven):
    proof, before, ledger = proven
    with writers(two, ledger) as writer:
        writer.wait_for_inserts(100)
        # A restart would cut inserts off, and what became of those nobody could tell.
        two.rekeeper("plan", "m1", "--restart", "never").expect(DONE)
        two.rekeeper("start", "m1", "--yes", timeout=280).expect(DONE)
        writer.wait_for_inserts(100)
    print(
        f"{writer.acknowledged} inserts, {writer.refused} refused; settle: {outcomes(two, 'settle')},"
        f" record: {outcomes(two, 'record')}, freeze: {outcomes(two, 'freeze')}"
    )
    print("\n".join(f"{e['time']} {e['kind']} {e['step']} {e['host']}" for e in two.rekeeper.events("m1")))
    assert two.rekeeper.status("m1")["state"] == "COMPLETED"
    assert report(proof.check(before, ledger))
    assert_each_once(two, ledger)


def test_abort_thaws_the_log_of_a_table_under_heavy_writes(two, proven):
    proof, before, ledger = proven
    with two.zookeeper.client() as client:
        permissions = client.get_acls(f"{PATH}/log")[0]
        with writers(two, ledger) as writer:
            writer.wait_for_inserts(100)
            two.rekeeper("plan", "m1", "--restart", "never").expect(DONE)
            two.rekeeper("start", "m1", "--until", "detached", "--yes", timeout=280).expect(DONE)
            frozen = client.get_acls(f"{PATH}/log")[0]
            print(f"settle: {outcomes(two, 'settle')}, freeze: {outcomes(two, 'freeze')}, log meanwhile: {frozen}")
            assert outcomes(two, "freeze") == ["done"], "it settled without: nothing is shown"
            assert frozen != permissions and "frozen-by-rekeeper" in client.get_children(PATH)
            two.rekeeper("abort", "m1").expect(DONE, PROBLEMS)
            two.rekeeper.wait_for_state("m1", "ABORTED")
            writer.wait_for_inserts(100)
        assert client.get_acls(f"{PATH}/log")[0] == permissions
        assert [name for name in client.get_children(PATH) if "rekeeper" in name] == []
        replicas = client.get_children(f"{PATH}/replicas")
        assert all(client.exists(f"{PATH}/replicas/{name}/is_active").ephemeralOwner for name in replicas)
    assert report(proof.check(before, ledger, same_metadata=True))
    assert_each_once(two, ledger)
