"""Files of an agent's state folder that are lost, cut off or altered in the middle of a migration: what can be made up for
is, what cannot is told with the file and the remedy, and no row is missing afterwards."""

import subprocess
from pathlib import Path

import pytest
from processes import wait_for
from programs import DONE, PROBLEMS
from rig import Cluster
from state_case import FIRST, HARM, SECOND, Case, alter, cut_off, lose, without_faults


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a database and a migration of its own."""
    with Cluster(shards=1, replicas=2) as made:
        made.start_rekeeper()
        yield made


@pytest.fixture(autouse=True)
def left_in_order(cluster):
    """Whatever has come of a case."""
    yield
    without_faults(cluster)


def test_list_of_known_tables(cluster):
    """Cut off: the agent does not start, and says which file it is and what to do; without one, a plan makes it anew."""
    Case(cluster, "known", ["t"])
    agent = cluster.agents[FIRST]
    file = agent.state / "known-tables.json"
    agent.terminate()
    cut_off(file)
    agent.start()
    wait_for(lambda: not agent.is_running, "the agent to end")
    said = agent.log_tail()
    assert str(file) in said and "remove it" in said and "backup" in said, said
    file.unlink()
    agent.start()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)
    cluster.rekeeper("plan", "known_anew", "--database", "known", "--restart", "never").expect(DONE)
    cluster.rekeeper("start", "known_anew", "--yes").expect(DONE)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_manifest(cluster, after):
    """When RESTORE was sent: the coordinator's copy takes the place of the agent's."""
    case = Case(cluster, f"manifest_{'after' if after else 'before'}", list(HARM))
    written = {}
    with case.stopped_at("SYSTEM RESTORE REPLICA", after):
        for table, harm in HARM.items():
            written[table] = case.file(table, "manifest").read_bytes()
            harm(case.file(table, "manifest"))
    assert case.code == DONE, case.problems()
    for table, content in written.items():
        assert case.file(table, "manifest").read_bytes() == content
    case.is_whole()


def test_manifest_that_nobody_knows_of(cluster):
    """Written, and lost before the coordinator heard of it: nothing was restored, so it is made anew."""
    case = Case(cluster, "manifest_unknown", list(HARM))
    agent = cluster.agents[FIRST]
    with case.stopped_at("ATTACH TABLE", after=False, program=cluster.coordinator):
        # The agent goes on without anybody to tell.
        cluster.host(FIRST).clear_faults()
        files = [case.file(table, "manifest") for table in HARM]
        wait_for(lambda: all(file.exists() for file in files), "the manifests to be written", timeout=60)
        agent.kill()
        for file, harm in zip(files, HARM.values(), strict=True):
            harm(file)
        agent.start()
    assert case.code == DONE, case.problems()
    case.is_whole()


# Where the first host's agent dies: at which of its statements, and whether that was executed.
PHASES = {
    "detached": ("DETACH TABLE", True),
    "cleaned": ("ATTACH TABLE", False),
    "attached": ("SYSTEM RESTORE REPLICA", False),
    "restoring": ("SYSTEM RESTORE REPLICA", True),
    "restored": ("SYSTEM START MERGES", False),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("what", ["", "coordinator.json", "known-tables.json"], ids=["all", "coordinator", "known"])
def test_lost(cluster, phase, what):
    """The whole folder, or what is in it for all migrations: it goes on by itself to the end, with all rows."""
    case = Case(cluster, f"lost_{phase}_{what.partition('-')[0].partition('.')[0] or 'all'}", ["one", "two"])
    with case.stopped_at(*PHASES[phase]):
        lose(case.state / what)
    assert case.code == DONE, case.problems()
    case.is_whole()
    # What RESTORE itself attached may have been attached again, as far as anybody knows by then. The server executes it
    # although nobody hears of that; one that begins after its agent's death gives up at the gate, and attaches nothing, or
    # comes through when the next agent opens it.
    of_table = {"attached": {0, 6}, "restoring": {6}}.get(phase, {0}) if what == "" else {0}
    unclear = {table["fates"].get("unclear", 0) for table in case.report() if table["host"] == FIRST}
    assert unclear and unclear <= of_table
    assert list(case.state.rglob("*.held")) == []


def test_upgraded_in_the_middle(cluster):
    """Its folder was made by an agent before 0.1.0, right in the state folder: all notes are found, and moved."""
    case = Case(cluster, "upgraded", ["one", "two"])
    with case.stopped_at("SYSTEM RESTORE REPLICA", True):
        case.folder.rename(case.state / case.name)
        case.folder.parent.rename(case.state / "of other migrations")
    assert case.code == DONE, case.problems()
    case.is_whole()
    assert not (case.state / case.name).exists() and case.file("one", "manifest").exists()
    # What was noted before RESTORE was sent is known: it was not attached by guess.
    assert sum(table["fates"].get("unclear", 0) for table in case.report()) == 0
    for other in (case.state / "of other migrations").iterdir():
        other.rename(case.folder.parent / other.name)
    (case.state / "of other migrations").rmdir()


@pytest.mark.parametrize("lost", [False, True], ids=["damaged", "lost"])
def test_restart_note(cluster, lost):
    """While the server is restarted: hooks run again, and it goes on only with a server that was started since."""
    server = cluster.host(FIRST).pid
    agent, name = cluster.agents[FIRST], f"restart_{'lost' if lost else 'damaged'}"
    case = Case(cluster, name, ["t"], restart="once")
    held, former = agent.directory / f"{name}.held", agent.configuration
    wait = f'echo >>"{held}.ran"; while [ -e "{held}" ]; do sleep 0.1; done; exec "$@"'
    command = ["sh", "-c", wait, "restart", *former["restart"]["command"]]
    agent.configure(former | {"restart": former["restart"] | {"command": command}})
    agent.restart()
    cluster.rekeeper.wait_for_agents(FIRST)
    held.touch()
    following = case.start()
    try:
        ran = held.with_name(f"{held.name}.ran")
        wait_for(ran.exists, lambda: f"{cluster.rekeeper('status', name)}", timeout=60)
        agent.kill()
        (note,) = case.folder.glob("*.restart")
        lose(note) if lost else alter(note)
        held.unlink()
        agent.start()
        code = following.wait(timeout=120)
        if not lost:
            (problem,) = case.problems().values()
            assert code == PROBLEMS and problem["code"] == "STATE_DAMAGED" and str(note) in problem["message"], problem
            by_hand(problem)
            case.retry()
        assert cluster.host(FIRST).pid != server
        assert lost or ran.read_text().count("\n") == 2
        case.is_whole()
    finally:
        following.terminate()
        following.wait()
        agent.configure(former)
        agent.restart()
        cluster.rekeeper.wait_for_agents(FIRST)


def by_hand(problem: dict) -> None:
    """The command that a problem has for its damaged note."""
    command = problem["said"].partition("on this host: ")[2].partition("; then rekeeper retry ")[0]
    assert command.startswith("mv "), problem
    subprocess.run(command, shell=True, check=True)


def of_an_older_agent(file) -> None:
    """As it was before notes had checksums."""
    file.write_text(file.read_text().partition("\n")[2])


def test_damaged_restore_note(cluster):
    """RESTORE was executed: nothing is done by a note that is not what was written, and by none at all it goes on."""
    harms = {"cut": cut_off, "altered": alter, "older": of_an_older_agent}
    case, host = Case(cluster, "damaged", list(harms)), cluster.host(FIRST)
    with case.stopped_at("SYSTEM RESTORE REPLICA", True):
        for table, harm in harms.items():
            harm(case.file(table, "restore"))
        seen = len(host.query_log())
    problems = case.problems()
    assert case.code == PROBLEMS and set(problems) == set(harms)
    changing = ("ALTER", "ATTACH", "DETACH", "SYSTEM RE", "SYSTEM START")
    sent = [r["sql"] for r in host.query_log()[seen:] if r["sql"].startswith(changing)]
    assert sent == []
    for table, problem in problems.items():
        print(problem)
        assert problem["code"] == "STATE_DAMAGED" and str(case.file(table, "restore")) in problem["message"]
        assert "SYSTEM START MERGES" in problem["said"]
        by_hand(problem)
    case.retry()
    case.is_whole()


def test_damaged_note_of_held_merges(cluster):
    """The note of one table is damaged, and that of another one is lost under the agent: when their server is started,
    merges are stopped of these, and of a third one."""
    case = Case(cluster, "held", ["damaged", "lost", "whole"])
    agent, (first, second) = cluster.agents[FIRST], cluster.hosts
    second.set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*held", "code": 497, "message": "Not enough privileges"})
    cluster.rekeeper("start", case.name, "--yes").expect(PROBLEMS)
    agent.kill()
    cut_off(case.file("damaged", "held"))
    agent.start()
    cluster.rekeeper.wait_for_agents(FIRST)
    lose(case.file("lost", "held"))
    seen = len(first.query_log())
    first.restart()

    def stopped() -> set[str]:
        sent = [r["sql"] for r in first.query_log()[seen:]]
        return {table for table in case.names if f"SYSTEM STOP MERGES `{case.name}`.`{table}`" in sent}

    wait_for(lambda: stopped() == set(case.names), lambda: f"stopped of {stopped()}", timeout=30)
    assert str(case.file("damaged", "held")) in agent.log_tail(20_000)
    second.clear_faults()
    case.retry()
    case.is_whole()
    assert list(case.state.rglob("*.held")) == []


def test_lost_note_of_held_merges(cluster):
    """Lost while the agent was away: the next step on the table notes it again."""
    case, (_, second) = Case(cluster, "held_again", ["t"]), cluster.hosts
    second.set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*held", "code": 497, "message": "Not enough privileges"})
    with case.stopped_at("SYSTEM RESTORE REPLICA", False):
        lose(case.file("t", "held"))
    assert case.code == PROBLEMS and case.file("t", "held").exists()
    second.clear_faults()
    case.retry()
    case.is_whole()


def test_list_that_cannot_be_learned(cluster):
    """The definition of a detached table does not tell where it is: it is said, nothing is done, and `retry` finishes
    once it does."""
    case, host = Case(cluster, "unlearned", ["t"]), cluster.host(FIRST)
    with case.stopped_at("DETACH TABLE", True):
        where = "SELECT metadata_path FROM system.detached_tables WHERE database = 'unlearned'"
        folder = host.value("SELECT path FROM system.disks WHERE name = 'default'")
        definition = Path(folder) / host.value(where)
        text = definition.read_text()
        definition.write_text(text.replace("{replica}", "{nowhere}"))
        lose(case.state / "known-tables.json")
    problem = case.problems()["t"]
    print(problem)
    assert case.code == PROBLEMS and problem["code"] == "COMMAND_REFUSED"
    assert "unlearned.t" in problem["message"] and "{nowhere}" in problem["message"]
    assert "bring the macro back" in problem["said"], problem
    definition.write_text(text)
    case.retry()
    case.is_whole()


def test_lost_by_both(cluster):
    """Both agents of a set lose everything while the reference is restored."""
    case, other = Case(cluster, "lost_by_both", ["one", "two"]), cluster.agents[SECOND]
    with case.stopped_at("SYSTEM RESTORE REPLICA", True):
        other.kill()
        lose(case.state)
        lose(other.state)
        other.start()
    assert case.code == DONE, case.problems()
    case.is_whole()
