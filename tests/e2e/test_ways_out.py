"""Pause, resume, retry of one host, and abort in every phase: nothing stays detached, no merges stay stopped."""

import pytest
import tables
from processes import wait_for
from programs import DONE, PROBLEMS, USAGE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

ONE, OTHER = Table("shop", "one", rows=60, inserts=6), Table("shop", "other", rows=60)
HOSTS = ["ch-01-1", "ch-01-2"]
LASTING = {"code": 497, "message": "Not enough privileges"}


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with two tables and Rekeeper; each test is a migration of its own."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), [ONE, OTHER])
        cluster.start_rekeeper()
        yield cluster


@pytest.fixture
def proved(two):
    """What the tables hold is the same afterwards, and merges run on every host."""
    proof, ledger = Proof(two.directory), Ledger(two.directory / "ledger.jsonl")
    before = proof.record()
    yield
    for host in two.hosts:
        host.clear_faults()
    assert report(proof.check(before, ledger, same_metadata=True))
    for table in (ONE, OTHER):
        for host in two.hosts:
            host.query(f"OPTIMIZE TABLE {table.quoted} FINAL SETTINGS optimize_throw_if_noop = 0, alter_sync = 2")
            parts = f"SELECT count() FROM system.parts WHERE active AND database = 'shop' AND table = '{table.name}'"
            wait_for(lambda host=host, parts=parts: host.value(parts) == "1", "merges to run")


def hold(host, pattern: str):
    """Keep a statement back; what is returned waits until one has arrived."""
    host.clear_faults()
    seen = len(host.query_log("held"))
    host.set_faults({"pattern": pattern, "wait": True})
    return lambda: wait_for(lambda: len(host.query_log("held")) > seen, f"{pattern} to arrive", timeout=60)


def own_nodes(cluster: Cluster) -> list[str]:
    """Everything of Rekeeper's in ZooKeeper."""
    found, unseen = [], ["/"]
    with cluster.zookeeper.client() as client:
        while unseen:
            current = unseen.pop()
            children = client.get_children(current) or []
            unseen += [f"{current.rstrip('/')}/{child}" for child in children]
            found += [child for child in children if "rekeeper" in child]
    return found


def test_pause_sends_nothing_new_and_resume_goes_on(two, proved):
    rekeeper, host = two.rekeeper, two.host("ch-01-2")
    rekeeper("plan", "paused").expect(DONE)
    assert "not running" in rekeeper("pause", "paused").expect(USAGE).stderr
    arrived = hold(host, "^DETACH TABLE")
    following = rekeeper.background("start", "paused", "--yes", output=two.directory / "start.out")
    arrived()
    assert "unavailable meanwhile: " in rekeeper("pause", "paused").expect(DONE).stderr
    host.clear_faults()
    rekeeper.wait_for_state("paused", "PAUSED")
    assert following.wait(timeout=60) == DONE
    wait_for(lambda: not rekeeper.under_way("paused"), "what was under way to end")
    before = [event["seq"] for event in rekeeper.events("paused")]
    # Also of a coordinator that starts anew nothing new comes.
    two.coordinator.restart()
    rekeeper.wait_for_agents(*HOSTS)
    assert [event["seq"] for event in rekeeper.events("paused")] == before
    status = rekeeper.status("paused")
    assert status["state"] == "PAUSED" and status["counts"]["DETACHED"] > 0
    assert f"{status['counts']['DETACHED']} DETACHED" in rekeeper("status", "paused").stdout
    rekeeper("resume", "paused").expect(DONE)
    rekeeper.wait_for_state("paused", "COMPLETED")
    assert "not paused" in rekeeper("resume", "paused").stderr or rekeeper("resume", "paused").code == USAGE


def test_retry_of_one_host_and_of_one_table(two, proved):
    rekeeper = two.rekeeper
    rekeeper("plan", "retried").expect(DONE)
    for host in two.hosts:
        host.set_faults({"pattern": "^SYSTEM START MERGES", **LASTING})
    rekeeper("start", "retried", "--yes").expect(PROBLEMS)
    assert rekeeper.status("retried")["counts"]["failed"] == 4
    for host in two.hosts:
        host.clear_faults()

    def failed() -> set[tuple[str, str]]:
        tables_now = rekeeper.status("retried")["tables"]
        return {(t["table"], t["host"]) for t in tables_now if t["problem"] and t["problem"]["code"] == "MERGES_FAILED"}

    rekeeper("retry", "retried", "--host", "ch-01-1").expect(DONE)
    others = {("one", "ch-01-2"), ("other", "ch-01-2")}
    wait_for(lambda: failed() == others, lambda: f"one host to be through: {failed()}")
    rekeeper("retry", "retried", "--table", "shop.one", "--host", "ch-01-2").expect(DONE)
    wait_for(lambda: failed() == {("other", "ch-01-2")}, lambda: f"one table to be through: {failed()}")
    rekeeper("retry", "retried", "--host", "ch-09-9").expect(USAGE)
    rekeeper("retry", "retried", "--table", "shop.none").expect(USAGE)
    rekeeper("retry", "retried").expect(DONE)
    rekeeper.wait_for_state("retried", "COMPLETED")


@pytest.mark.parametrize("phase", ["never-started", "sync", "detached"])
def test_abort_before_the_first_clean_leaves_no_trace(two, proved, phase):
    rekeeper, host, name = two.rekeeper, two.host("ch-01-1"), f"abort-{phase}"
    with two.zookeeper.client() as client:
        paths = [f"/tables/01/shop/{table.name}" for table in (ONE, OTHER)]
        before = [client.exists(path).czxid for path in paths]
        rekeeper("plan", name).expect(DONE)
        if phase == "sync":
            arrived = hold(host, "^SYSTEM SYNC REPLICA")
            rekeeper.background("start", name, "--yes", output=two.directory / "start.out")
            arrived()
        elif phase == "detached":
            rekeeper("start", name, "--until", "detached", "--yes").expect(DONE)
            assert rekeeper.status(name)["counts"]["DETACHED"] == 4
        rekeeper("abort", name).expect(DONE)
        host.clear_faults()
        status = rekeeper.wait_for_state(name, "ABORTED")
        assert {table["status"] for table in status["tables"]} == {"INIT"} and status["counts"]["failed"] == 0
        assert [client.exists(path).czxid for path in paths] == before
    assert own_nodes(two) == []
    rekeeper("start", name).expect(DONE)
    assert rekeeper.status(name)["state"] == "ABORTED"


@pytest.mark.parametrize("phase", ["zk-cleaned", "restore"])
def test_abort_after_the_clean_goes_forward(two, proved, phase):
    rekeeper, host, name = two.rekeeper, two.host("ch-01-1"), f"abort-{phase}"
    rekeeper("plan", name).expect(DONE)
    if phase == "restore":
        arrived = hold(host, "^SYSTEM RESTORE REPLICA")
        rekeeper.background("start", name, "--yes", output=two.directory / "start.out")
        arrived()
    else:
        rekeeper("start", name, "--until", phase, "--yes").expect(DONE)
    assert "carried forward, since cleaned already: 2 replica sets" in rekeeper("abort", name).expect(DONE).stderr
    host.clear_faults()
    status = rekeeper.wait_for_state(name, "ABORTED", "COMPLETED")
    assert {table["status"] for table in status["tables"]} == {"RESTORED"}
