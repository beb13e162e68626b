"""A table that somebody drops on one host, or a database that is renamed, once the nodes are deleted: no row of the other
replicas is lost, and the migration comes to its end."""

import contextlib

import pytest
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS, USAGE
from rig import Cluster
from test_loss_changed_table import FIRST, ROWS, SECOND, Case, remedy

RESTORE = "^SYSTEM RESTORE REPLICA .*{}"


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each test has a database and a migration of its own."""
    with Cluster(shards=1, replicas=2) as made:
        made.start_rekeeper()
        yield made


@contextlib.contextmanager
def held(case: Case, host: str, code: int, after: bool, tables: int = 1):
    """What is done within comes right before, or after, RESTORE of so many tables of a host."""
    server = case.cluster.host(host)
    seen = len(server.query_log("held"))
    server.set_faults({"pattern": RESTORE.format(case.name), "wait": True, "after": after})
    out = case.cluster.directory / f"{case.name}.out"
    following = case.rekeeper.background("start", case.name, "--yes", output=out)
    try:
        wait_for(lambda: len(server.query_log("held")[seen:]) >= tables, lambda: f"{case.rekeeper('status', case.name)}", timeout=60)
        yield
        server.clear_faults()
        assert following.wait(timeout=150) == code
    finally:
        server.clear_faults()
        following.terminate()
        following.wait()


def skip(case: Case, table: str, host: str):
    """The answer."""
    return case.rekeeper("skip", case.name, "--table", f"{case.name}.{table}", "--host", host)


def ends_without(case: Case, table: str, host: str) -> None:
    """It is told how; then all is restored but this replica, and the next migration is not blocked."""
    (problem,) = [t["problem"] for t in case.rekeeper.status(case.name)["tables"] if t["problem"] and t["host"] == host]
    print(problem)
    assert problem["code"] == "TABLE_CHANGED" and f"--host {host}" in problem["said"]
    other = ({FIRST, SECOND} - {host}).pop()
    refused = skip(case, table, other).expect(USAGE).stderr
    assert "TABLE_CHANGED" in refused, refused
    blocked = case.rekeeper("plan", f"{case.name}-next", "--database", case.name).expect(BLOCKED)
    assert "MIGRATION_OVERLAP" in blocked.stdout
    print(skip(case, table, host).expect(DONE).stdout)
    status = case.rekeeper.wait_for_state(case.name, "COMPLETED", "FAILED", timeout=120)
    assert status["state"] == "COMPLETED", case.problems()
    rows = f"SELECT count() FROM {case.name}.{table}"
    assert case.cluster.host(other).value(rows) == str(ROWS)
    case.cluster.host(other).query(f"INSERT INTO {case.name}.{table} (id) VALUES (7777)")
    found = {(t["host"], t["table"]): t for t in status["tables"]}
    assert found[host, table]["skipped"] and not found[other, table]["skipped"]
    assert {t["status"] for key, t in found.items() if key != (host, table)} == {"RESTORED"}
    plan = case.rekeeper("plan", f"{case.name}-next", "--database", case.name, "--restart", "never")
    assert "MIGRATION_OVERLAP" not in plan.stdout + plan.stderr


@pytest.mark.parametrize("host", [FIRST, SECOND])
def test_dropped_on_one_host_after_the_clean(cluster, host):
    case = Case(cluster, f"cleaned_{host[-1]}", ["gone", "same"])
    case.start("--until", "restarted")
    server = cluster.host(host)
    server.query(f"ATTACH TABLE {case.name}.gone")
    server.query(f"DROP TABLE {case.name}.gone SYNC")
    case.start(code=PROBLEMS)
    ends_without(case, "gone", host)


@pytest.mark.parametrize("host", [FIRST, SECOND])
def test_dropped_between_restore_and_account(cluster, host):
    """The reference takes the path along; a follower leaves it to the reference."""
    case = Case(cluster, f"restored_{host[-1]}", ["gone"])
    with held(case, host, PROBLEMS, after=True):
        cluster.host(host).query(f"DROP TABLE {case.name}.gone SYNC")
    ends_without(case, "gone", host)


@pytest.mark.parametrize("moment", ["before", "within"])
def test_reference_dropped_before_the_follower(cluster, moment):
    """When the next one's turn comes, or it is about to be restored: it becomes the reference, at a place proved anew."""
    case, second = Case(cluster, f"late_{moment}", ["gone"]), cluster.host(SECOND)
    drop = f"DROP TABLE {case.name}.gone SYNC"
    if moment == "within":
        with held(case, SECOND, PROBLEMS, after=False):
            cluster.host(FIRST).query(drop)
    else:
        refused = {"code": 497, "message": "Not enough privileges"}
        second.set_faults({"pattern": RESTORE.format(case.name), **refused})
        case.start(code=PROBLEMS)
        second.clear_faults()
        cluster.host(FIRST).query(drop)
        case.rekeeper("retry", case.name).expect(DONE)
        case.rekeeper.wait_for_state(case.name, "FAILED", timeout=60)
    status = case.rekeeper.status(case.name)
    assert [t["host"] for t in status["tables"] if t["status"] == "RESTORED"] == [FIRST], "it was not the reference"
    (problem,) = [table["problem"] for table in status["tables"] if table["problem"]]
    print(problem)
    assert problem["code"] == ("PATH_EXISTS" if moment == "within" else "PLACE_DIFFERS") and "--host" in problem["said"]
    assert ("not registered any more" in problem["message"]) == (moment == "within")
    skip(case, "gone", FIRST).expect(DONE)
    status = case.rekeeper.wait_for_state(case.name, "COMPLETED", "FAILED", timeout=120)
    assert status["state"] == "COMPLETED", case.problems()
    (table,) = [t for t in status["tables"] if t["host"] == SECOND]
    assert (table["status"], table["problem"]) == ("RESTORED", None)
    assert second.value(f"SELECT count() FROM {case.name}.gone") == str(ROWS)
    second.query(f"INSERT INTO {case.name}.gone (id) VALUES (7777)")


@pytest.mark.parametrize("moment", ["detached", "restored"])
def test_database_is_renamed(cluster, moment):
    """On the reference: with its name again every row is accounted for."""
    case, host = Case(cluster, f"renamed_{moment}", ["a", "b"]), cluster.host(FIRST)
    if moment == "detached":
        case.start("--until", "restarted")
        host.query(f"RENAME DATABASE {case.name} TO other_{moment}")
        case.start(code=PROBLEMS)
    else:
        # Of both, so that no other statement of the other one finds the database gone.
        with held(case, FIRST, PROBLEMS, after=True, tables=2):
            host.query(f"RENAME DATABASE {case.name} TO other_{moment}")
    problems = case.problems()
    print(problems)
    assert problems and {problem["code"] for problem in problems.values()} == {"TABLE_CHANGED"}
    statements = {remedy(problem) for problem in problems.values()}
    assert statements == {f"RENAME DATABASE `other_{moment}` TO `{case.name}`"}
    host.query(*statements)
    case.retry_finishes(["a", "b"])
