"""The disk of an agent's state folder, or of the coordinator's, fills up in the middle of a migration: there is room that
was kept for what has to be written once nodes are deleted, and what has none is said, with the remedy, and goes on once
there is room."""

import signal

import pytest
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS
from rig import Cluster
from small_disk import SmallDisk, may_mount
from state_case import FIRST, SECOND, Case, without_faults

SIZE = 16 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two replicas of one shard with Rekeeper; each case has a database and a migration of its own."""
    if not may_mount(tmp_path_factory.mktemp("may") / "mount"):
        pytest.skip("this user may not mount a small disk")
    with Cluster(shards=1, replicas=2) as made:
        made.start_rekeeper()
        yield made


@pytest.fixture
def state(cluster):
    """The disk of the first host's agent, which is small for one case."""
    agent = cluster.agents[FIRST]
    agent.terminate()
    disk = SmallDisk(agent.state, SIZE)
    try:
        agent.start()
        cluster.rekeeper.wait_for_agents(FIRST, SECOND)
        yield disk
    finally:
        without_faults(cluster)
        agent.terminate()
        disk.close()
        agent.start()
        cluster.rekeeper.wait_for_agents(FIRST, SECOND)


@pytest.mark.parametrize("restart", ["never", "once"])
def test_full_between_clean_and_manifest(cluster, state, restart):
    """Nothing is missing: room was kept while nothing had been deleted yet."""
    case = Case(cluster, f"full_{restart}", ["one", "two"], restart)
    cluster.rekeeper("start", case.name, "--yes", "--until", "zk-cleaned").expect(DONE)
    state.fill()
    done = cluster.rekeeper("start", case.name, "--yes")
    print(case.problems())
    done.expect(DONE)
    case.is_whole()
    assert list(case.folder.glob("*.reserve")) == []
    assert "room was kept" in cluster.agents[FIRST].log_tail(20_000)


def without_reserves(agent) -> None:
    """As after a power cut, or when somebody has removed what lies about there."""
    for file in agent.state.rglob("*reserve"):
        file.unlink()


def test_no_room_to_keep(cluster, state):
    """Nothing is detached of what could not be written down later."""
    case, agent = Case(cluster, "no_room", ["one", "two"]), cluster.agents[FIRST]
    without_reserves(agent)
    state.fill(but=256 << 10)
    cluster.rekeeper("start", case.name, "--yes").expect(PROBLEMS)
    for problem in full(case).values():
        assert str(agent.state) in problem["message"] + str(problem["said"]), problem
    for host in cluster.hosts:
        sent = [r["sql"] for r in host.query_log() if r["sql"].startswith("DETACH TABLE `no_room`")]
        assert host.value("SELECT count() FROM no_room.one") == "60" and (sent == [] or host.name == SECOND)
    state.make_room()
    case.retry()
    case.is_whole()


def test_full_and_no_room_was_kept(cluster, state):
    """It is said, and goes on once there is room."""
    case = Case(cluster, "nothing_kept", ["one", "two"])
    cluster.rekeeper("start", case.name, "--yes", "--until", "zk-cleaned").expect(DONE)
    without_reserves(cluster.agents[FIRST])
    state.fill()
    cluster.rekeeper("start", case.name, "--yes").expect(PROBLEMS)
    full(case)
    # Attached, with a manifest that cannot be written.
    state.fill(but=40 << 10)
    cluster.rekeeper("retry", case.name).expect(DONE)
    cluster.rekeeper.wait_for_state(case.name, "COMPLETED", "FAILED", timeout=120)
    state.make_room()
    if case.problems():
        full(case)
        case.retry()
    case.is_whole()


def full(case: Case) -> dict[str, dict]:
    """The problems, which all say that there is no room, and nothing else."""
    problems = case.problems()
    print(problems)
    assert {problem["code"] for problem in problems.values()} == {"STATE_DIR_FULL"}, problems
    told = [(problem["fix"], str(problem["said"])) for problem in problems.values()]
    assert all("make room" in fix and "backup" not in fix + said for fix, said in told)
    return problems


@pytest.fixture
def data(cluster):
    """The disk of the coordinator's store, which is small for one case."""
    coordinator = cluster.coordinator
    coordinator.terminate()
    disk = SmallDisk(coordinator.directory / "data", 2 * SIZE)
    try:
        coordinator.start()
        cluster.rekeeper.wait_for_agents(FIRST, SECOND)
        yield disk
    finally:
        without_faults(cluster)
        coordinator.kill()
        disk.take_back()
        coordinator.start()
        cluster.rekeeper.wait_for_agents(FIRST, SECOND)


def test_full_at_the_coordinator_after_clean(cluster, data):
    """The migration goes on to its end in the room that was kept, also by a coordinator that is started meanwhile."""
    case = Case(cluster, "coordinator_full", ["one", "two"])
    cluster.rekeeper("start", case.name, "--yes", "--until", "zk-cleaned").expect(DONE)
    data.fill()
    cluster.coordinator.restart(signal.SIGKILL)
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)
    data.fill()
    cluster.rekeeper("start", case.name, "--yes").expect(DONE)
    case.is_whole()
    said = cluster.coordinator.log_tail(20_000)
    assert "opened with room that was kept" in said and "room was kept for this" in said


def test_no_room_at_the_coordinator(cluster, data):
    """Nothing is begun, and nothing deleted; a coordinator that cannot write says why it ends, and goes on after."""
    case, coordinator = Case(cluster, "coordinator_no_room", ["one", "two"]), cluster.coordinator
    kept = coordinator.directory / "data" / "reserve"

    def use_up(but: int) -> None:
        kept.unlink()
        data.fill(but)
        kept.touch()

    coordinator.terminate()
    use_up(but=4 << 20)
    coordinator.start()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)
    refused = cluster.rekeeper("start", case.name, "--yes").expect(BLOCKED)
    assert "STATE_DIR_FULL" in refused.stderr and "data_dir" in refused.stderr, refused
    assert cluster.rekeeper.status(case.name)["state"] == "PLANNED"
    data.make_room()
    cluster.rekeeper("start", case.name, "--yes", "--until", "detached").expect(DONE)

    coordinator.terminate()
    use_up(but=4 << 20)
    coordinator.start()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)
    following = cluster.rekeeper.background("start", case.name, "--yes", output=cluster.directory / "no_room.out")
    try:
        waits = wait_for(
            lambda: "STATE_DIR_FULL" in (said := cluster.rekeeper.status(case.name)["waiting_for"] or "") and said,
            lambda: f"{cluster.rekeeper('status', case.name)}",
        )
        assert "record" in waits and "data_dir" in waits
        with cluster.zookeeper.client() as client:
            assert client.exists("/tables/01/coordinator_no_room/one/log")
        # Not even what is asked for can be written down.
        data.fill()
        kept.unlink(missing_ok=True)
        wait_for(
            lambda: cluster.rekeeper("pause", case.name).code != DONE or cluster.rekeeper("resume", case.name).code != DONE,
            "an order that cannot be written down",
            timeout=120,  # What SQLite's log has room for is written first.
        )
        wait_for(lambda: not coordinator.is_running, "the coordinator to end", timeout=60)
        said = coordinator.log_tail()
        assert "STATE_DIR_FULL" in said and "make some, then start the coordinator again" in said, said
        data.make_room()
        coordinator.start()
        cluster.rekeeper.wait_for_agents(FIRST, SECOND)
        cluster.rekeeper("resume", case.name)
        cluster.rekeeper.wait_for_state(case.name, "COMPLETED", "FAILED", timeout=120)
    finally:
        following.terminate()
        following.wait()
    case.is_whole()
