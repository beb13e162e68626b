"""What a cut restore left is mended by programs that are killed themselves, or by an agent that may not rename."""

import subprocess
from dataclasses import replace

import pytest
from cut_restore import ATTACH_PART, REFERENCE, RESTORE, Migration, Place, created, killed, part
from rig import Cluster

# After so many that failed a step is a problem.
ATTEMPTS = 4


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard, Rekeeper, and a database for all cases."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


@pytest.mark.parametrize("kills", [1, ATTEMPTS])
def test_server_dies_again(cluster, kills):
    """In RESTORE, and while Rekeeper attaches what that left. A step that failed four times is a problem, with every
    row where it was: `retry` finishes it."""
    host, table, done = cluster.hosts[0], created(cluster.hosts, f"again_{kills}"), 0
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, replace(REFERENCE["between"], others=())):
            migration.hold(ATTACH_PART)
        while done < kills and migration.until_held():
            done += 1
            # By turns it leaves `attaching_<part>`, and a part that is not registered.
            with killed(cluster, host, table, Place(f"detached/attaching_{part(2)}/", done=done % 2 == 0)):
                migration.hold(ATTACH_PART)
                if done == kills:
                    host.clear_faults()
    if kills == ATTEMPTS:
        migration.failed_with("RESTORE_FAILED")
        migration.retry()
    migration.completed()


TIMES = 20


def test_agent_dies_between_attach_part_and_its_record(cluster):
    """Twenty times: the statement is done, and nobody has heard of it. Every part is attached once."""
    host, agent = cluster.hosts[0], cluster.agents[cluster.hosts[0].name]
    table = created(cluster.hosts, "twenty", parts=TIMES)
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, Place(f"detached/{part(0)}")):
            migration.hold(ATTACH_PART, after=True)
        before = len(host.query_log("end"))
        for _ in range(TIMES):
            assert migration.until_held()
            agent.kill()
            migration.hold(ATTACH_PART, after=True)
            agent.start()
    done = [r["sql"] for r in host.query_log("end")[before:] if ATTACH_PART in r["sql"] and not r["error"]]
    assert len(done) == len(set(done)) == TIMES, done
    migration.completed()


REPLICATED = "ReplicatedMergeTree"
# Where the server dies, the engine, and the problem; none where ClickHouse itself can attach what is left.
UNABLE = {
    "moving": (REFERENCE["moving"], REPLICATED, None),
    # Its parts have been folded when they were written.
    "moving-in-order": (
        Place("all_2_2_1/", ("all_0_0_1", "all_1_1_1")),
        "ReplicatedReplacingMergeTree",
        "PARTS_OUT_OF_ORDER",
    ),
    "attaching": (REFERENCE["attaching"], REPLICATED, "PARTS_UNACCOUNTED"),
    "refused": (REFERENCE["first-not-registered"], REPLICATED, "RESTORE_FAILED"),
}


@pytest.mark.parametrize("name", UNABLE)
def test_agent_may_not_rename(cluster, name):
    """The problem has the very commands; after them `retry` finishes."""
    (place, engine, code), host, agent = UNABLE[name], cluster.hosts[0], cluster.agents[cluster.hosts[0].name]
    table = created(cluster.hosts, f"unable_{name.replace('-', '_')}", engine=engine)
    agent.kill()
    agent.run_as_reader()
    agent.start()
    cluster.rekeeper.wait_for_agents(host.name)
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, replace(place, others=(), mending="")):
            host.clear_faults()
    # What was refused gets its name back afterwards.
    for expected in [code, "PARTS_UNACCOUNTED"] if name == "refused" else filter(None, [code]):
        problem = migration.failed_with(expected)
        assert table in problem["message"] and "cannot" in problem["message"]
        by_hand(host, problem["said"])
        migration.retry()
    migration.completed()


def by_hand(host, said: str) -> None:
    """What an operator does who reads it."""
    steps = said.partition(", as a user who may: ")[2].partition("; then rekeeper retry ")[0].split("; ")
    assert [step for step in steps if step.startswith("mv ")], said
    for step in steps:
        if step.startswith("mv "):
            subprocess.run(step, shell=True, check=True)
        else:
            host.query(step)
