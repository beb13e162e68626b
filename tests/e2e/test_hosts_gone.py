"""A host that never comes back: the others go on as far as is safe, people are told what waits, and can go on without."""

import pytest
import tables
from processes import wait_for
from programs import DONE, PROBLEMS, USAGE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

BOTH = Table("shop", "both", rows=60)
GONE = "ch-01-2"


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with a table on both, and Rekeeper."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), [BOTH])
        cluster.start_rekeeper()
        yield cluster


def seen(cluster: Cluster, name: str) -> dict[tuple[str, str], tuple]:
    """Status, problem and what is waited for, of each table replica."""
    return {
        (t["table"], t["host"]): (t["status"], t["problem"] and t["problem"]["code"], t["waits_for"])
        for t in cluster.rekeeper.status(name)["tables"]
    }


def dies(cluster: Cluster) -> None:
    cluster.agents[GONE].kill()
    cluster.host(GONE).kill()


def comes_back(cluster: Cluster, name: str) -> None:
    """Much later; what `problems` prints brings its tables back."""
    cluster.host(GONE).start()
    (problem,) = cluster.rekeeper("problems", name, "-o", "json").expect(DONE).json
    assert (problem["code"], problem["host"], problem["table"]) == ("HOST_LEFT", GONE, "shop.both")
    for statement in problem["by_hand"]:
        assert f"{statement};" in cluster.rekeeper("problems", name).stdout
        # After ATTACH a server looks for the metadata first, and is read-only until it has.
        readonly = "SELECT is_readonly FROM system.replicas WHERE database = 'shop' AND table = 'both'"
        if statement.startswith("SYSTEM RESTORE"):
            wait_for(lambda: cluster.host(GONE).value(readonly) == "1", "the table to be attached")
        cluster.host(GONE).query(statement)
    cluster.agents[GONE].start()
    cluster.rekeeper.wait_for_agents(GONE)


def test_host_that_dies_after_the_clean(two):
    rekeeper, proof, ledger = two.rekeeper, Proof(two.directory), Ledger(two.directory / "ledger.jsonl")
    before = proof.record()
    alone = Table("shop", "alone", rows=60)
    alone.create(two.host("ch-01-1"))
    alone.fill([two.host("ch-01-1")])
    rekeeper("plan", "m1").expect(DONE)
    assert "never started" in rekeeper("skip", "m1", "--host", GONE).expect(USAGE).stderr
    rekeeper("start", "m1", "--until", "zk-cleaned", "--yes").expect(DONE)
    dies(two)
    following = rekeeper.background("start", "m1", "--yes", output=two.directory / "start.out")
    expected = {
        ("alone", "ch-01-1"): ("RESTORED", None, None),
        ("both", "ch-01-1"): ("ZK_CLEANED", None, GONE),
        ("both", GONE): ("ZK_CLEANED", None, GONE),
    }
    wait_for(lambda: seen(two, "m1") == expected, lambda: f"the rest to go on: {seen(two, 'm1')}", timeout=120)
    wait_for(lambda: GONE in rekeeper.status("m1")["waiting_for"], "only the host to be waited for")
    document = rekeeper.status("m1")
    assert document["state"] == "RUNNING" and f"agent of {GONE} is not connected" in document["waiting_for"]
    assert "not connected" in {host["host"]: host["away"] for host in document["hosts"]}[GONE]
    shown = rekeeper("problems", "m1").expect(DONE).stdout
    assert "HOST_AWAY" in shown and f"rekeeper skip m1 --host {GONE}" in shown and "shop.both on ch-01-1" in shown
    refused = rekeeper("skip", "m1", "--table", "shop.both").expect(USAGE)
    assert "forward is the only way" in refused.stderr
    assert "no host ch-09-9" in rekeeper("skip", "m1", "--host", "ch-09-9").expect(USAGE).stderr
    assert f"{GONE} is left out for good" in rekeeper("skip", "m1", "--host", GONE).expect(DONE).stderr
    # A coordinator that starts anew has not forgotten it.
    two.coordinator.restart()
    assert rekeeper.wait_for_state("m1", "COMPLETED", timeout=120)["counts"]["failed"] == 1
    following.wait(timeout=120)
    assert seen(two, "m1") == expected | {
        ("both", "ch-01-1"): ("RESTORED", None, None),
        ("both", GONE): ("ZK_CLEANED", "HOST_LEFT", None),
    }
    rekeeper("status", "m1").expect(PROBLEMS)
    rows = two.host("ch-01-1").value(f"SELECT count() FROM {BOTH.quoted}")
    two.host("ch-01-1").query(f"INSERT INTO {BOTH.quoted} (id) VALUES (777)")
    assert rows == "60"
    comes_back(two, "m1")
    assert two.host("ch-01-1").value(f"SELECT count() FROM {alone.quoted}") == "60"
    two.host("ch-01-1").query(f"DROP TABLE {alone.quoted} SYNC")
    two.host("ch-01-1").query(f"ALTER TABLE {BOTH.quoted} DELETE WHERE id = 777 SETTINGS mutations_sync = 2")
    assert report(proof.check(before, ledger))


def test_host_that_dies_before_the_clean(two):
    """Nothing of its tables is deleted: what is detached on the others goes back into service."""
    rekeeper, proof, ledger = two.rekeeper, Proof(two.directory), Ledger(two.directory / "ledger.jsonl")
    before = proof.record()
    rekeeper("plan", "m2", "--table", "shop.both").expect(DONE)
    rekeeper("start", "m2", "--until", "detached", "--yes").expect(DONE)
    dies(two)
    # The host has to be missed first: an agent that is connected is taken at its word.
    wait_for(lambda: "no" in rekeeper("hosts").stdout.split(GONE)[1].split()[0], "the host to be missed", timeout=60)
    rekeeper("skip", "m2", "--host", GONE).expect(DONE)
    rekeeper.wait_for_state("m2", "COMPLETED", timeout=60)
    assert seen(two, "m2") == {
        ("both", "ch-01-1"): ("INIT", None, None),
        ("both", GONE): ("DETACHED", "HOST_LEFT", None),
    }
    comes_back(two, "m2")
    assert report(proof.check(before, ledger, same_metadata=True))
