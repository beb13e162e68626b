"""Orders that come while a migration is under way (docs/orders.md): a barrier that is given later holds, or is refused."""

import pytest
import tables
from held import NAME, PATH, Request, Statement, let_commands_wait
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS, USAGE
from proof import Proof, report
from rig import Cluster
from tables import Table
from test_ways_out import HOSTS, Rig, steps_of
from writer import Ledger
from zookeeper_proxy import ZooKeeperProxy

TABLES = [Table("shop", "held", rows=60, inserts=6), Table("shop", "other", rows=60)]
PATHS = [PATH, "/tables/01/shop/other"]
LASTING = {"code": 497, "message": "Not enough privileges"}
BEYOND = {"clean", "restart", "witness", "attach", "restore", "clear", "finish"}


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with two tables and Rekeeper; each test is a migration of its own."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        proxy = ZooKeeperProxy(cluster.zookeeper.port)
        cluster.start_rekeeper(proxy)
        let_commands_wait(cluster)
        cluster.proxy = proxy
        yield cluster
        proxy.close()


@pytest.fixture
def proved(two):
    """What the tables hold is the same afterwards; nothing is held any more."""
    proof, ledger = Proof(two.directory), Ledger(two.directory / "ledger.jsonl")
    before = proof.record()
    yield
    for host in two.hosts:
        host.clear_faults()
    two.proxy.let_go()
    # Of a case that failed nothing stands in the way of the next one.
    for line in two.rekeeper("status", "-o", "json").expect(DONE).json:
        if line["state"] not in ("PLANNED", "COMPLETED", "ABORTED"):
            two.rekeeper("retry", line["name"])
            two.rekeeper("abort", line["name"])
            two.rekeeper.wait_for_state(line["name"], "COMPLETED", "ABORTED", timeout=60)
    assert report(proof.check(before, ledger, same_metadata=True))


def created(cluster: Cluster) -> list[int]:
    """The transaction that created the metadata of each table; it is another one once its nodes were deleted."""
    with cluster.zookeeper.client() as client:
        return [client.exists(path).czxid for path in PATHS]


class Held:
    """A migration that goes on in the background and stands at a step of `shop.held` until it is let go."""

    def __init__(self, cluster: Cluster, name: str, at, *go_on: str):
        self.cluster, self.name, self.at, self.rig = cluster, name, at, Rig(cluster, cluster.proxy)
        at.arm(self.rig)
        output = cluster.directory / f"{name}.out"
        self.following = cluster.rekeeper.background(*(go_on or ("start", name, "--yes")), output=output)

    def __enter__(self):
        shown = lambda: self.cluster.rekeeper("status", self.name)  # noqa: E731
        wait_for(lambda: self.at.held(self.rig), lambda: f"{self.at}: {shown()}", timeout=60)
        return self

    def __exit__(self, *_):
        self.at.let_go(self.rig)
        self.following.wait(timeout=120)


def stands_before_the_delete(cluster: Cluster, name: str, before: list[int]) -> None:
    """At its barrier, with every node of the tables where it was."""
    status = cluster.rekeeper.wait_for_state(name, "PAUSED", "FAILED", "COMPLETED", timeout=120)
    assert (status["state"], status["until"]) == ("PAUSED", "detached"), status
    assert {table["status"] for table in status["tables"]} == {"DETACHED"}
    assert not BEYOND & steps_of(cluster, name), "something beyond the barrier was ordered"
    assert created(cluster) == before


def goes_on(cluster: Cluster, name: str) -> None:
    """From its barrier to its end."""
    cluster.rekeeper("start", name, "--yes").expect(DONE)
    assert cluster.rekeeper.status(name)["state"] == "COMPLETED"


AT_DETACH = Statement(f"^DETACH TABLE {NAME}")


def test_a_barrier_that_is_given_while_it_runs_is_set(two, proved):
    rekeeper, before = two.rekeeper, created(two)
    rekeeper("plan", "late", "--restart", "never").expect(DONE)
    with Held(two, "late", AT_DETACH):
        second = rekeeper.background("start", "late", "--until", "detached", output=two.directory / "second.out")
        # It is answered, and follows, once it is on record.
        wait_for(lambda: "RUNNING" in (two.directory / "second.out").read_text(), "it to follow", timeout=20)
    assert second.wait(timeout=60) == DONE
    stands_before_the_delete(two, "late", before)
    assert "start until detached by " in rekeeper("events", "late").expect(DONE).stdout
    goes_on(two, "late")


def test_a_barrier_that_is_given_after_a_failure_and_after_retry_is_set(two, proved):
    rekeeper, before = two.rekeeper, created(two)
    rekeeper("plan", "again", "--restart", "never").expect(DONE)
    for host in two.hosts:
        host.set_faults({"pattern": "^SYSTEM SYNC REPLICA", **LASTING})
    rekeeper("start", "again", "--yes").expect(PROBLEMS)
    # While it stands failed: it is kept for what `retry` sets going.
    rekeeper("start", "again", "--until", "zk-cleaned", "--yes").expect(PROBLEMS)
    assert rekeeper.status("again")["until"] == "zk-cleaned"
    for host in two.hosts:
        host.clear_faults()
    with Held(two, "again", AT_DETACH, "retry", "again"):
        second = rekeeper.background("start", "again", "--until", "detached", output=two.directory / "second.out")
        wait_for(lambda: rekeeper.status("again")["until"] == "detached", "the barrier to be set", timeout=20)
        # Whoever only follows lifts no barrier.
        third = rekeeper.background("start", "again", "--yes", output=two.directory / "third.out")
        wait_for(lambda: "RUNNING" in (two.directory / "third.out").read_text(), "a second person to follow")
    assert (second.wait(timeout=60), third.wait(timeout=60)) == (DONE, DONE)
    stands_before_the_delete(two, "again", before)
    goes_on(two, "again")


def test_a_barrier_that_comes_too_late_is_refused_with_the_reason(two, proved):
    rekeeper = two.rekeeper
    # This table alone: another one would go on beyond the later barrier meanwhile.
    rekeeper("plan", "too-late", "--table", "shop.held", "--restart", "never").expect(DONE)
    with Held(two, "too-late", Request("multi", f"{PATH}/replicas/r1/metadata")):
        refused = rekeeper("start", "too-late", "--until", "detached").expect(USAGE).stderr
        assert "clean of " in refused and "rekeeper pause too-late" in refused
        second = rekeeper.background("start", "too-late", "--until", "zk-cleaned", "--yes", output=two.directory / "2.out")
        wait_for(lambda: rekeeper.status("too-late")["until"] == "zk-cleaned", "the later barrier to be set", timeout=20)
    assert second.wait(timeout=60) == DONE
    status = rekeeper.status("too-late")
    assert status["state"] == "PAUSED" and {t["status"] for t in status["tables"]} == {"ZK_CLEANED"}
    rekeeper("start", "too-late", "--until", "detached").expect(USAGE)
    goes_on(two, "too-late")
    rekeeper("start", "too-late").expect(DONE)
    rekeeper("start", "too-late", "--until", "restarted").expect(USAGE)


def test_a_pause_on_the_way_to_a_barrier_does_not_lift_it(two, proved):
    rekeeper, before = two.rekeeper, created(two)
    rekeeper("plan", "paused", "--restart", "never").expect(DONE)
    with Held(two, "paused", AT_DETACH, "start", "paused", "--until", "detached", "--yes"):
        rekeeper("pause", "paused").expect(DONE)
        rekeeper("pause", "paused").expect(DONE)
    rekeeper("start", "paused", "--yes").expect(DONE)
    stands_before_the_delete(two, "paused", before)
    rekeeper("pause", "paused").expect(DONE)
    rekeeper("resume", "paused").expect(DONE)
    stands_before_the_delete(two, "paused", before)
    rekeeper("resume", "paused").expect(DONE)
    rekeeper.wait_for_state("paused", "COMPLETED")


def test_what_was_aborted_is_aborted_and_is_not_started_again(two, proved):
    rekeeper, before = two.rekeeper, created(two)
    for name, until, statuses in ("back", "detached", {"INIT"}), ("forward", "zk-cleaned", {"RESTORED"}):
        rekeeper("plan", name, "--restart", "never").expect(DONE)
        rekeeper("start", name, "--until", until, "--yes").expect(DONE)
        rekeeper("abort", name).expect(DONE)
        status = rekeeper.wait_for_state(name, "ABORTED", "COMPLETED", timeout=120)
        assert (status["state"], {table["status"] for table in status["tables"]}) == ("ABORTED", statuses)
        assert rekeeper("status", name).expect(DONE).stdout.startswith(f"Migration {name}: ABORTED")
        assert "was aborted" in rekeeper("start", name, "--yes").expect(USAGE).stderr
        for order in ["pause"], ["resume"], ["retry"], ["abort"], ["start", "--until", "detached"]:
            rekeeper(order[0], name, *order[1:]).expect(USAGE)
        assert (created(two) == before) == (name == "back")


def test_two_people_start_at_once_and_the_stricter_one_is_heard(two, proved):
    """The checks of a start take their time: whoever is second comes to a migration that runs."""
    rekeeper, before = two.rekeeper, created(two)
    rekeeper("plan", "both", "--restart", "never").expect(DONE)
    orders = [("start", "both", "--yes"), ("start", "both", "--until", "detached")]
    with Held(two, "both", AT_DETACH, *orders[0]):
        strict = rekeeper.background(*orders[1], output=two.directory / "strict.out")
        wait_for(lambda: rekeeper.status("both")["until"] == "detached", "the barrier to be set", timeout=20)
    assert strict.wait(timeout=60) == DONE
    stands_before_the_delete(two, "both", before)
    rekeeper.wait_for_agents(*HOSTS)
    assert rekeeper("plan", "both-2").code == BLOCKED
    goes_on(two, "both")
