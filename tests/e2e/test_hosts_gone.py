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


def is_missed(cluster: Cluster, host: str) -> None:
    """An agent that is connected is taken at its word."""
    wait_for(lambda: "no" in cluster.rekeeper("hosts").stdout.split(host)[1].split()[0], f"{host} to be missed", 60)


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
    is_missed(two, GONE)
    rekeeper("skip", "m2", "--host", GONE).expect(DONE)
    rekeeper.wait_for_state("m2", "COMPLETED", timeout=60)
    assert seen(two, "m2") == {
        ("both", "ch-01-1"): ("INIT", None, None),
        ("both", GONE): ("DETACHED", "HOST_LEFT", None),
    }
    comes_back(two, "m2")
    assert report(proof.check(before, ledger, same_metadata=True))


def test_host_that_comes_back_is_part_of_the_next_migration(two):
    """Lost within its restore, when its agent kept merges stopped: by hand it comes back, and the next migration takes it
    along; nothing stops its merges any more."""
    rekeeper, host = two.rekeeper, two.host(GONE)
    proof, ledger = Proof(two.directory), Ledger(two.directory / "ledger.jsonl")
    before = proof.record()
    rekeeper("plan", "left", "--table", "shop.both").expect(DONE)
    held = len(host.query_log("held"))
    host.set_faults({"pattern": "^SYSTEM RESTORE REPLICA", "wait": True})
    following = rekeeper.background("start", "left", "--yes", output=two.directory / "start.out")
    wait_for(lambda: len(host.query_log("held")) > held, "RESTORE to be sent", timeout=60)
    dies(two)
    host.clear_faults()
    is_missed(two, GONE)
    rekeeper("skip", "left", "--host", GONE).expect(DONE)
    rekeeper.wait_for_state("left", "COMPLETED", timeout=60)
    following.wait(timeout=60)
    host.start()
    (problem,) = rekeeper("problems", "left", "-o", "json").expect(DONE).json
    for statement in problem["by_hand"]:
        # It is attached, since it was not detached any more when it was lost.
        if not statement.startswith("ATTACH"):
            host.query(statement)
    two.agents[GONE].start()
    rekeeper.wait_for_agents(GONE)
    assert list(two.agents[GONE].folder("left").glob("*.held"))
    # The next one covers it, and it is restarted once more afterwards.
    rekeeper("plan", "next", "--table", "shop.both").expect(DONE)
    rekeeper("start", "next", "--yes").expect(DONE)
    assert {t["host"]: t["status"] for t in rekeeper.status("next")["tables"]} == {"ch-01-1": "RESTORED", GONE: "RESTORED"}
    host.restart()
    assert report(proof.check(before, ledger))
    for each in two.hosts:
        each.query(f"OPTIMIZE TABLE {BOTH.quoted} FINAL SETTINGS optimize_throw_if_noop = 0, alter_sync = 2")
        parts = "SELECT count() FROM system.parts WHERE active AND table = 'both'"
        wait_for(lambda each=each, parts=parts: each.value(parts) == "1", f"merges to run on {each.name}")


@pytest.fixture
def three():
    """Three replicas; the first has run a merge that the others have not."""
    with Cluster(shards=1, replicas=3) as cluster:
        tables.create(cluster.shards(), [BOTH])
        for host in cluster.hosts:
            host.query(f"SYSTEM SYNC REPLICA {BOTH.quoted}")
        first, *others = cluster.hosts
        for host in others:
            host.query(f"SYSTEM STOP MERGES {BOTH.quoted}")
        first.query(f"OPTIMIZE TABLE {BOTH.quoted} FINAL SETTINGS alter_sync = 1")
        parts = [len(host.query("SELECT 1 FROM system.parts WHERE active AND table = 'both'")) for host in cluster.hosts]
        assert parts == [1, 4, 4]
        cluster.start_rekeeper()
        yield cluster


def test_reference_that_never_comes_back(three):
    """What was decided of the others' parts was decided by those of the one that is gone."""
    rekeeper = three.rekeeper
    rekeeper("plan", "m1").expect(DONE)
    rekeeper("start", "m1", "--until", "zk-cleaned", "--yes").expect(DONE)
    gone = rekeeper.status("m1")["replica_sets"][0]["reference"]
    three.agents[gone].kill()
    three.host(gone).kill()
    is_missed(three, gone)
    rekeeper("skip", "m1", "--host", gone).expect(DONE)
    rekeeper("start", "m1", "--yes").expect(DONE, PROBLEMS)
    status = rekeeper.wait_for_state("m1", "COMPLETED", "FAILED", timeout=120)
    others = [host for host in three.hosts if host.name != gone]
    assert status["state"] == "COMPLETED", rekeeper("problems", "m1")
    assert status["replica_sets"][0]["reference"] in [host.name for host in others]
    assert {t["status"] for t in status["tables"] if t["host"] != gone} == {"RESTORED"}
    for host in others:
        assert host.value(f"SELECT concat(toString(count()), ' ', toString(uniq(id))) FROM {BOTH.quoted}") == "60 60"


class Down:
    """A migration of a table on both hosts and of one on the other host, while one server is down and its agent lives."""

    def __init__(self, cluster: Cluster, name: str, victim: str):
        self.cluster, self.rekeeper, self.name = cluster, cluster.rekeeper, name
        self.victim = cluster.host(victim)
        (self.other,) = [host for host in cluster.hosts if host.name != victim]
        self.proof, self.ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        self.before = self.proof.record()
        self.alone = Table("shop", "alone", rows=60)
        self.alone.create(self.other)
        self.alone.fill([self.other])

    def start(self):
        """In the background."""
        output = self.cluster.directory / "start.out"
        return self.rekeeper.background("start", self.name, "--yes", output=output)

    def goes_on_without(self) -> None:
        """What does not need the server is done."""
        place = ("alone", self.other.name)
        wait_for(lambda: seen(self.cluster, self.name)[place] == ("RESTORED", None, None), "the rest to go on", timeout=60)

    def is_whole(self) -> None:
        """Every row on both hosts."""
        self.rekeeper.wait_for_state(self.name, "COMPLETED", timeout=120)
        self.other.query(f"DROP TABLE {self.alone.quoted} SYNC")
        assert report(self.proof.check(self.before, self.ledger))


@pytest.mark.parametrize(
    ("phase", "victim"),
    [("detached", GONE), ("zk-cleaned", GONE), ("restore of the reference", "ch-01-1"), ("restore of a follower", GONE)],
)
def test_server_that_is_down_while_its_agent_lives(two, phase, victim):
    """Status names it, what does not need it goes on, and when it is back the migration goes on by itself."""
    down, rekeeper = Down(two, f"down-{phase.replace(' ', '-')}", victim), two.rekeeper
    rekeeper("plan", down.name, "--restart", "never").expect(DONE)
    if phase.startswith("restore"):
        held = len(down.victim.query_log("held"))
        down.victim.set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*both", "wait": True})
        following = down.start()
        wait_for(lambda: len(down.victim.query_log("held")) > held, "RESTORE to be sent", timeout=60)
        assert (rekeeper.status(down.name)["replica_sets"][-1]["reference"] == victim) == phase.endswith("reference")
        down.victim.kill()
        down.victim.clear_faults()
    else:
        rekeeper("start", down.name, "--until", phase, "--yes").expect(DONE)
        down.victim.kill()
        following = down.start()

    def told() -> bool:
        steps = rekeeper.status(down.name)["running"]
        return any("server" in step["doing"] for step in steps if step["host"] == victim and step["doing"])

    wait_for(told, lambda: f"the server to be named: {rekeeper('status', down.name)}", timeout=60)
    down.goes_on_without()
    status = rekeeper.status(down.name)
    assert victim in status["waiting_for"] and "the server, which cannot be reached" in status["waiting_for"]
    assert status["state"] == "RUNNING" and status["counts"]["failed"] == 0 and following.poll() is None
    down.victim.start()
    assert following.wait(timeout=120) == DONE
    down.is_whole()


def test_server_that_its_restart_command_does_not_bring_back(two):
    """The problem names the host; the other one is through, and `retry` finishes when the cause is mended."""
    down, agent = Down(two, "not-back", GONE), two.agents[GONE]
    right = agent.configuration
    two.rekeeper("plan", down.name).expect(DONE)
    two.rekeeper("start", down.name, "--until", "zk-cleaned", "--yes").expect(DONE)
    agent.configure(right | {"restart": {"command": ["false"], "timeout": "5s"}})
    agent.restart()
    two.rekeeper.wait_for_agents(GONE)
    down.victim.kill()
    assert down.start().wait(timeout=120) == PROBLEMS
    down.goes_on_without()
    for host in ("ch-01-1", GONE):
        status, code, _ = seen(two, down.name)["both", host]
        assert (status, code) == ("ZK_CLEANED", "RESTART_FAILED" if host == GONE else None)
    assert "RESTART_FAILED" in two.rekeeper("problems", down.name).stdout
    agent.configure(right)
    agent.restart()
    two.rekeeper.wait_for_agents(GONE)
    two.rekeeper("retry", down.name, "--host", GONE).expect(DONE)
    down.is_whole()
