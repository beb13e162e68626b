"""SIGKILL of the coordinator and of agents while a command is under way: in each phase, at several points.

Something keeps the step from ending (held.py). A case counts only when the journal has the step's intent and no outcome
of it, before the kill and after.
"""

import contextlib
import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
import tables
from held import NAME, PATH, Command, Request, Statement, let_commands_wait
from processes import wait_for
from programs import DONE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger
from zookeeper_proxy import ZooKeeperProxy

# The steps are held at the first one, whose set is number 0; the others go through meanwhile.
TABLES = [
    Table("shop", "held", rows=60, inserts=6),
    Table("shop", "many parts", settings=tables.NEVER_MERGES, rows=300, inserts=2, rows_per_part=10),
    Table("shop", "without rows", rows=0, inserts=0),
]


class Crashes:
    """One cluster with Rekeeper, on which every case is a migration of its own."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.numbers = cluster, itertools.count(1)
        self.proxy = ZooKeeperProxy(cluster.zookeeper.port)
        tables.create(cluster.shards(), TABLES)
        cluster.start_rekeeper(self.proxy)
        let_commands_wait(cluster)
        self.proof, self.ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        # Set while a case runs: one that failed leaves a cluster that is of no use to the others.
        self.is_dirty = False

    def close(self) -> None:
        """End everything."""
        self.proxy.close()
        self.cluster.close()


# Phase, step, what holds it.
POINTS = {
    "detach-sync": ("sync", Statement(f"^SYSTEM SYNC REPLICA {NAME}")),
    "detach-sent": ("detach", Statement(f"^DETACH TABLE {NAME}")),
    "detach-done": ("detach", Statement(f"^DETACH TABLE {NAME}", host="ch-01-2", after=True)),
    "settle-begun": ("settle", Request(".*", PATH)),
    "settle-reading": ("settle", Request(".*", f"{PATH}/replicas/r2/parts")),
    "clean-record": ("record", Request("multi", f"{PATH}/rekeeper-[\\w-]*")),
    "clean-begun": ("clean", Request("multi", f"{PATH}/replicas/r1/metadata")),
    "clean-half": ("clean", Request("multi", f"{PATH}/dropped/lock")),
    "clean-last": ("clean", Request("multi", f"{PATH}/dropped/lock", skip=1)),
    "restart-hook": ("restart", Command("hook")),
    "restart-ordered": ("restart", Command("before", host="ch-01-2")),
    "restart-done": ("restart", Command("after")),
    "attach-witness": ("witness", Request("multi", "/rekeeper-witness-[\\w-]*-0")),
    "attach-sent": ("attach", Statement(f"^ATTACH TABLE {NAME}")),
    "attach-done": ("attach", Statement(f"^ATTACH TABLE {NAME}", host="ch-01-2", after=True)),
    "restore-reference-sent": ("restore", Statement(f"^SYSTEM RESTORE REPLICA {NAME}")),
    "restore-reference-done": ("restore", Statement(f"^SYSTEM RESTORE REPLICA {NAME}", after=True)),
    "restore-follower-done": ("restore", Statement(f"^SYSTEM RESTORE REPLICA {NAME}", host="ch-01-2", after=True)),
}


@pytest.fixture(scope="module")
def kept():
    """The cluster of the case before, if it can be used again."""
    clusters: list[Crashes] = []
    yield clusters
    for crashes in clusters:
        crashes.close()


@pytest.fixture
def crashes(kept):
    """A cluster on which no migration is unfinished."""
    if kept and kept[0].is_dirty:
        kept.pop().close()
    if not kept:
        cluster = Cluster(shards=1, replicas=2).__enter__()
        try:
            kept.append(Crashes(cluster))
        except BaseException:
            cluster.close()
            raise
    kept[0].is_dirty = True
    return kept[0]


@pytest.fixture
def cluster(crashes):
    """For the report of a test that failed."""
    return crashes.cluster


@contextlib.contextmanager
def held_at(crashes: Crashes, point: str):
    """A new migration, started and held at a point: its name, the intent that is held, and by what.

    The migration has to be completed by what is done within; nothing may be lost then.
    """
    step, hold = POINTS[point]
    rekeeper, name = crashes.cluster.rekeeper, f"m{next(crashes.numbers)}"
    before = crashes.proof.record()
    # A restart takes longer than all other steps together.
    rekeeper("plan", name, "--restart", "once" if step == "restart" else "never").expect(DONE)
    hold.arm(crashes)
    following = rekeeper.background("start", name, "--yes", output=crashes.cluster.directory / "start.out")
    try:
        held = wait_for(lambda: hold.held(crashes), lambda: f"{point}: {rekeeper('status', name)}", timeout=60)
        (intent,) = [i for i in rekeeper.under_way(name) if is_of_held_table(i, step, hold)]
        yield name, intent, held
    finally:
        following.terminate()
        following.wait()
    outcomes = [e["kind"] for e in rekeeper.events(name) if e["attempt"] == intent["attempt"]]
    assert len(outcomes) == 2, outcomes
    assert report(crashes.proof.check(before, crashes.ledger))
    crashes.is_dirty = False


def is_of_held_table(intent: dict, step: str, hold) -> bool:
    """Whether it is the intent whose step is held."""
    here = getattr(hold, "host", None) in (None, intent["host"])
    return intent["step"] == step and here and (step == "restart" or intent["target"].endswith(("shop.held", PATH)))


def assert_under_way(cluster: Cluster, name: str, intent: dict) -> None:
    """Nothing has come of the intent."""
    assert intent["attempt"] in [i["attempt"] for i in cluster.rekeeper.under_way(name)], "nothing was interrupted"


@pytest.mark.parametrize("victim", ["coordinator", "agent"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_while_a_command_is_under_way(crashes, cluster, victim, point):
    rekeeper, (_, hold) = cluster.rekeeper, POINTS[point]
    with held_at(crashes, point) as (name, intent, held):
        program = cluster.coordinator if victim == "coordinator" else cluster.agents[intent["host"]]
        program.kill()
        if victim == "coordinator":
            # It stays held meanwhile, so nothing can have come of it before this coordinator is told.
            program.start()
            rekeeper.wait_for_agents(*cluster.agents)
        assert_under_way(cluster, name, intent)
        print(
            f"{victim}: interrupted attempt {intent['attempt']}: {intent['step']} of {intent['target']}"
            f" on {intent['host']}, held: {held}"
        )
        hold.let_go(crashes)
        if victim == "agent":
            program.start()
        rekeeper.wait_for_state(name, "COMPLETED", timeout=60)


# Others are in test_loss_state.py.
LOSING = ("detach-sync", "settle-reading", "clean-record", "clean-begun", "clean-half", "clean-last", "attach-witness")


@pytest.mark.parametrize("point", LOSING)
def test_killed_with_the_loss_of_the_state_folder(crashes, cluster, point):
    """An agent that finds an empty folder: record, marker and export are those of the coordinator, of ZooKeeper, or
    made anew as long as no node was deleted."""
    with held_at(crashes, point) as (name, intent, _):
        agent = cluster.agents[intent["host"]]
        agent.kill()
        shutil.rmtree(agent.state)
        assert_under_way(cluster, name, intent)
        POINTS[point][1].let_go(crashes)
        agent.start()
        cluster.rekeeper.wait_for_state(name, "COMPLETED", timeout=60)
    exports = {s["zookeeper_path"]: s["export"] for s in cluster.rekeeper.status(name)["replica_sets"]}
    # The request that was kept back in "clean-begun" deletes as well.
    made_anew = point in ("detach-sync", "settle-reading", "clean-record")
    assert Path(exports[PATH]["file"]).exists() == made_anew


@pytest.mark.parametrize("point", ["clean-begun", "clean-half", "clean-last"])
def test_request_of_an_agent_that_was_killed_arrives_when_all_is_made_anew(crashes, cluster, point):
    """It deletes nothing: the marker that it is bound to is gone."""
    with held_at(crashes, point) as (name, intent, held):
        cluster.agents[intent["host"]].restart(signal.SIGKILL)
        cluster.rekeeper.wait_for_state(name, "COMPLETED", timeout=60)
        answered = crashes.proxy.answered
        POINTS[point][1].let_go(crashes)
        wait_for(lambda: crashes.proxy.answered > answered, "ZooKeeper to answer the late request")
        print(f"{held} arrived when {name} was completed: {crashes.proxy.answered - answered} answers")


def test_frozen_agent_goes_on_in_the_middle_of_clean(crashes, cluster):
    """Stopped until the coordinator has given its connection up; nobody else takes the deletion over meanwhile."""
    point, rekeeper = "clean-half", cluster.rekeeper
    with held_at(crashes, point) as (name, intent, _):
        agent = cluster.agents[intent["host"]]

        def is_given_up() -> bool:
            hosts = rekeeper("hosts", "-o", "json").json
            return [host["host"] for host in hosts if not host["connected"]] == [intent["host"]]

        os.kill(agent.pid, signal.SIGSTOP)
        try:
            POINTS[point][1].let_go(crashes)
            wait_for(is_given_up, "the coordinator to give the connection up", timeout=60)
            assert rekeeper.status(name)["state"] == "RUNNING"
            assert_under_way(cluster, name, intent)
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        rekeeper.wait_for_state(name, "COMPLETED", timeout=60)
