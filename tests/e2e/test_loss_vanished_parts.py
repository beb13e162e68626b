"""Parts that vanish, break or turn up while the server is restarted: first what bare statements make of it, then Rekeeper,
which sees it by the part set of record before anything is restored, and goes on when the disk is as it was."""

import re
import shutil
from pathlib import Path

import pytest
import tables
from one_table import FIRST, SECOND, OneTable
from processes import wait_for
from programs import DONE, PROBLEMS
from rig import Cluster
from tables import Table

ROWS, PARTS = 100, 5
EACH = ROWS // PARTS


def table(name: str) -> Table:
    return Table("shop", name, settings=tables.NEVER_MERGES, rows=ROWS, inserts=PARTS)


TABLES = [table(name) for name in ("bare", "bare_more", "vanished", "broken", "later", "more", "most")]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a table of its own."""
    with Cluster(shards=1, replicas=2) as made:
        tables.create(made.shards(), TABLES)
        made.start_rekeeper()
        yield made


def part_of(cluster: Cluster, host: str, name: str, part: str = "all_2_2_0") -> Path:
    """The folder of one of the table's parts."""
    of = f"database = 'shop' AND table = '{name}' AND name = '{part}' AND active"
    return Path(cluster.host(host).value(f"SELECT path FROM system.parts WHERE {of}"))


def problem(case: OneTable, code: str = "RECORDED_PARTS_MISSING", part: str = "all_2_2_0") -> dict:
    """The one problem that the migration has; the other replica has not been restored either."""
    found = case.problem(code, part)
    assert "RESTORED" not in {table["status"] for table in case.cluster.rekeeper.status(case.name)["tables"]}
    for host in case.cluster.hosts:
        assert host.value(f"SELECT is_readonly FROM system.replicas WHERE table = '{case.name}'") == "1"
    return found


def bring_back(said: str, source: Path) -> None:
    """As the remedy says."""
    folder = re.search(r"bring the folders of these parts back into (\S+?),", said).group(1)
    shutil.copytree(source, Path(folder) / source.name)


def detached(cluster: Cluster, name: str) -> OneTable:
    """Planned, and its nodes deleted."""
    case = OneTable(cluster, name, ROWS)
    case.plan().expect(DONE)
    cluster.rekeeper("start", name, "--until", "restarted", "--yes").expect(DONE)
    return case


def test_bare_statements_lose_the_part_on_all_replicas(cluster):
    case, part = OneTable(cluster, "bare", ROWS), part_of(cluster, FIRST, "bare")
    cluster.query_all("DETACH TABLE shop.bare PERMANENTLY SYNC")
    shutil.rmtree(part)
    case.without_metadata()
    case.restore_by_hand()
    # The second one had it, and has dropped it without a word.
    assert case.counts() == {ROWS - EACH}
    cluster.query_all("DETACH TABLE shop.bare PERMANENTLY SYNC")


def test_a_part_that_vanished_is_copied_from_the_other_replica(cluster):
    part, other = part_of(cluster, FIRST, "vanished"), part_of(cluster, SECOND, "vanished")
    case = detached(cluster, "vanished")
    shutil.rmtree(part)
    cluster.rekeeper("start", "vanished", "--yes").expect(PROBLEMS)
    problem(case)
    # As long as it is not there, nothing goes on; and another part under its name is not taken for it.
    case.retry_fails()
    shutil.copytree(other.with_name("all_3_3_0"), part)
    case.retry_fails()
    said = problem(case)["said"]
    shutil.rmtree(part)
    bring_back(said, other)
    case.retry_finishes()


def test_a_part_that_broke_is_said_to_be_in_detached(cluster):
    part, other = part_of(cluster, FIRST, "broken"), part_of(cluster, SECOND, "broken")
    case = detached(cluster, "broken")
    (part / "columns.txt").write_text("no such format")
    cluster.rekeeper("start", "broken", "--yes").expect(PROBLEMS)
    found = problem(case)
    assert re.search(r"detached/ holds broken\S*all_2_2_0", found["message"])
    bring_back(found["said"], other)
    case.retry_finishes()


def test_a_part_that_vanishes_after_the_manifest_was_written(cluster):
    """The server is started again between the attach and the restore, without the part."""
    part, other = part_of(cluster, FIRST, "later"), part_of(cluster, SECOND, "later")
    case, host = OneTable(cluster, "later", ROWS), cluster.host(FIRST)
    case.plan().expect(DONE)
    # The manifest of the first is written, and nothing can be restored before the second has one.
    with case.held(SECOND, "^ATTACH TABLE .*later"):
        written = f"manifest of {PARTS} parts"
        wait_for(lambda: written in str(cluster.rekeeper.events("later")), "the first to be attached", timeout=60)
        host.kill()
        shutil.rmtree(part)
        host.start()
    bring_back(problem(case)["said"], other)
    case.retry_finishes()


def test_bare_statements_double_the_rows_of_a_part_that_was_not_committed(cluster):
    case, part = OneTable(cluster, "bare_more", ROWS), part_of(cluster, FIRST, "bare_more")
    cluster.query_all("DETACH TABLE shop.bare_more PERMANENTLY SYNC")
    shutil.copytree(part, part.with_name("all_7_7_0"))
    case.without_metadata()
    case.restore_by_hand()
    if case.counts() == {ROWS}:
        pytest.skip("RESTORE of this engine takes equal parts for one, as up to 26.5")
    assert case.counts() == {ROWS + EACH}
    cluster.query_all("DETACH TABLE shop.bare_more PERMANENTLY SYNC")


def test_a_part_that_is_not_on_record_is_set_aside(cluster):
    part = part_of(cluster, FIRST, "more")
    case = detached(cluster, "more")
    shutil.copytree(part, part.with_name("all_7_7_0"))
    cluster.rekeeper("start", "more", "--yes").expect(DONE)
    case.is_whole()
    assert (part.parent / "detached" / "ignored_all_7_7_0").exists()
    # And it stands as what it is: not as what was there before.
    tables = cluster.rekeeper.status("more")["tables"]
    assert {table["host"]: table["set_aside"] for table in tables} == {FIRST: 1, SECOND: 0}
    assert "(1 set aside)" in cluster.rekeeper("status", "more").expect(DONE).stdout
    report = cluster.rekeeper("report", "more", "-o", "json").expect(DONE).json
    folders = [folder for table in report["tables"] for folder in table["detached"]]
    assert [f["why"] for f in folders if f["name"] == "ignored_all_7_7_0"] == ["not_on_record"]


def test_most_of_the_rows_are_not_set_aside_without_asking(cluster):
    part = part_of(cluster, FIRST, "most")
    case = detached(cluster, "most")
    for number in range(PARTS + 1):
        shutil.copytree(part, part.with_name(f"all_{70 + number}_{70 + number}_0"))
    cluster.rekeeper("start", "most", "--yes").expect(PROBLEMS)
    found = problem(case, "PARTS_NOT_ON_RECORD", "all_70_70_0")
    for statement in found["said"].split("then on this host: ", 1)[1].split("; "):
        if statement.startswith("mv "):
            source, target = re.fullmatch(r"mv '(.*)' '(.*)'", statement).groups()
            Path(source).rename(target)
        elif not statement.startswith(("rekeeper", "rows", "until")):
            cluster.host(FIRST).query(statement)
    case.retry_finishes()
