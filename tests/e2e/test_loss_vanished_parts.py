"""Parts that vanish, break or turn up while the server is restarted: first what bare statements make of it, then Rekeeper,
which sees it by the part set of record before anything is restored, and goes on when the disk is as it was."""

import re
import shutil
from pathlib import Path

import pytest
import tables
from processes import wait_for
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

ROWS, PARTS = 100, 5
EACH = ROWS // PARTS
FIRST, SECOND = "ch-01-1", "ch-01-2"


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


@pytest.fixture(autouse=True)
def without_faults(cluster):
    """A case that failed leaves nothing held."""
    yield
    for host in cluster.hosts:
        host.clear_faults()


def part_of(cluster: Cluster, host: str, name: str, part: str = "all_2_2_0") -> Path:
    """The folder of one of the table's parts."""
    of = f"database = 'shop' AND table = '{name}' AND name = '{part}' AND active"
    return Path(cluster.host(host).value(f"SELECT path FROM system.parts WHERE {of}"))


def count(cluster: Cluster, host: str, name: str) -> int:
    return int(cluster.host(host).value(f"SELECT count() FROM shop.{name}"))


def planned(cluster: Cluster, name: str) -> tuple[Proof, dict]:
    """With the proof of what has to be the same afterwards."""
    proof = Proof(cluster.directory)
    record = proof.record()
    before = record | {"replicas": [replica for replica in record["replicas"] if replica["table"] == name]}
    cluster.rekeeper("plan", name, "--table", f"shop.{name}", "--restart", "never").expect(DONE)
    return proof, before


def problem(cluster: Cluster, name: str, code: str = "RECORDED_PARTS_MISSING", part: str = "all_2_2_0") -> dict:
    """The one problem that the migration has; the other replica has not been restored either."""
    status = cluster.rekeeper.status(name)
    found = [t["problem"] for t in status["tables"] if t["problem"]]
    assert [problem["code"] for problem in found] == [code]
    print(found[0]["message"], "|", found[0]["fix"])
    assert f"shop.{name}" in found[0]["message"] and part in found[0]["message"]
    assert "RESTORED" not in {t["status"] for t in status["tables"]}
    for host in cluster.hosts:
        assert host.value(f"SELECT is_readonly FROM system.replicas WHERE table = '{name}'") == "1"
    return found[0]


def bring_back(fix: str, source: Path) -> None:
    """As the remedy says."""
    folder = re.search(r"bring the folders of these parts back into (\S+?),", fix).group(1)
    shutil.copytree(source, Path(folder) / source.name)


def retry_finishes(cluster: Cluster, name: str, proof: Proof, before: dict) -> None:
    cluster.rekeeper("retry", name).expect(DONE)
    status = cluster.rekeeper.wait_for_state(name, "COMPLETED", "FAILED", timeout=120)
    assert status["state"] == "COMPLETED"
    assert {count(cluster, host, name) for host in (FIRST, SECOND)} == {ROWS}
    assert report(proof.check(before, Ledger(cluster.directory / f"{name}.jsonl")))


def test_bare_statements_lose_the_part_on_all_replicas(cluster):
    part = part_of(cluster, FIRST, "bare")
    cluster.query_all("DETACH TABLE shop.bare PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete("/tables/01/shop/bare", recursive=True)
    shutil.rmtree(part)
    cluster.query_all("ATTACH TABLE shop.bare")
    exception = "SELECT zookeeper_exception FROM system.replicas WHERE table = 'bare'"
    for host in cluster.hosts:
        wait_for(lambda host=host: "No node" in host.value(exception), "the metadata to be missed")
        host.query("SYSTEM RESTORE REPLICA shop.bare")
        host.query("SYSTEM SYNC REPLICA shop.bare")
        assert host.value("SELECT is_readonly FROM system.replicas WHERE table = 'bare'") == "0"
    # The second one had it, and has dropped it without a word.
    assert {count(cluster, host, "bare") for host in (FIRST, SECOND)} == {ROWS - EACH}
    cluster.query_all("DETACH TABLE shop.bare PERMANENTLY SYNC")


def test_a_part_that_vanished_is_copied_from_the_other_replica(cluster):
    proof, before = planned(cluster, "vanished")
    part = part_of(cluster, FIRST, "vanished")
    other = part_of(cluster, SECOND, "vanished")
    cluster.rekeeper("start", "vanished", "--until", "restarted", "--yes").expect(DONE)
    shutil.rmtree(part)
    cluster.rekeeper("start", "vanished", "--yes").expect(PROBLEMS)
    problem(cluster, "vanished")
    # As long as it is not there, nothing goes on.
    cluster.rekeeper("retry", "vanished").expect(DONE)
    assert cluster.rekeeper.wait_for_state("vanished", "COMPLETED", "FAILED")["state"] == "FAILED"
    # Another part under its name is not taken for it.
    shutil.copytree(other.with_name("all_3_3_0"), part)
    cluster.rekeeper("retry", "vanished").expect(DONE)
    assert cluster.rekeeper.wait_for_state("vanished", "COMPLETED", "FAILED")["state"] == "FAILED"
    fix = problem(cluster, "vanished")["fix"]
    shutil.rmtree(part)
    bring_back(fix, other)
    retry_finishes(cluster, "vanished", proof, before)


def test_bare_statements_double_the_rows_of_a_part_that_was_not_committed(cluster):
    part = part_of(cluster, FIRST, "bare_more")
    cluster.query_all("DETACH TABLE shop.bare_more PERMANENTLY SYNC")
    shutil.copytree(part, part.with_name("all_7_7_0"))
    with cluster.zookeeper.client() as client:
        client.delete("/tables/01/shop/bare_more", recursive=True)
    cluster.query_all("ATTACH TABLE shop.bare_more")
    exception = "SELECT zookeeper_exception FROM system.replicas WHERE table = 'bare_more'"
    for host in cluster.hosts:
        wait_for(lambda host=host: "No node" in host.value(exception), "the metadata to be missed")
        host.query("SYSTEM RESTORE REPLICA shop.bare_more")
        host.query("SYSTEM SYNC REPLICA shop.bare_more")
    assert {count(cluster, host, "bare_more") for host in (FIRST, SECOND)} == {ROWS + EACH}
    cluster.query_all("DETACH TABLE shop.bare_more PERMANENTLY SYNC")


def test_a_part_that_is_not_on_record_is_set_aside(cluster):
    proof, before = planned(cluster, "more")
    part = part_of(cluster, FIRST, "more")
    cluster.rekeeper("start", "more", "--until", "restarted", "--yes").expect(DONE)
    shutil.copytree(part, part.with_name("all_7_7_0"))
    cluster.rekeeper("start", "more", "--yes").expect(DONE)
    assert {count(cluster, host, "more") for host in (FIRST, SECOND)} == {ROWS}
    assert report(proof.check(before, Ledger(cluster.directory / "more.jsonl")))
    assert (part.parent / "detached" / "ignored_all_7_7_0").exists()


def test_most_of_the_rows_are_not_set_aside_without_asking(cluster):
    proof, before = planned(cluster, "most")
    part = part_of(cluster, FIRST, "most")
    cluster.rekeeper("start", "most", "--until", "restarted", "--yes").expect(DONE)
    for number in range(PARTS + 1):
        shutil.copytree(part, part.with_name(f"all_{70 + number}_{70 + number}_0"))
    cluster.rekeeper("start", "most", "--yes").expect(PROBLEMS)
    found = problem(cluster, "most", "PARTS_NOT_ON_RECORD", "all_70_70_0")
    for statement in found["fix"].split("then on this host: ", 1)[1].split("; "):
        if statement.startswith("mv "):
            source, target = re.fullmatch(r"mv '(.*)' '(.*)'", statement).groups()
            Path(source).rename(target)
        elif not statement.startswith(("rekeeper", "rows", "until")):
            cluster.host(FIRST).query(statement)
    retry_finishes(cluster, "most", proof, before)


def test_a_part_that_broke_is_said_to_be_in_detached(cluster):
    proof, before = planned(cluster, "broken")
    part = part_of(cluster, FIRST, "broken")
    other = part_of(cluster, SECOND, "broken")
    cluster.rekeeper("start", "broken", "--until", "restarted", "--yes").expect(DONE)
    (part / "columns.txt").write_text("no such format")
    cluster.rekeeper("start", "broken", "--yes").expect(PROBLEMS)
    found = problem(cluster, "broken")
    assert re.search(r"detached/ holds broken\S*all_2_2_0", found["message"])
    bring_back(found["fix"], other)
    retry_finishes(cluster, "broken", proof, before)


def test_a_part_that_vanishes_after_the_manifest_was_written(cluster):
    """The server is started again between the attach and the restore, without the part."""
    proof, before = planned(cluster, "later")
    host, other = cluster.host(FIRST), part_of(cluster, SECOND, "later")
    part = part_of(cluster, FIRST, "later")
    # The manifest of the first is written, and nothing can be restored before the second has one.
    held = cluster.host(SECOND)
    waiting = len(held.query_log("held"))
    held.set_faults({"pattern": "^ATTACH TABLE .*later", "wait": True})
    following = cluster.rekeeper.background("start", "later", "--yes", output=cluster.directory / "start.out")
    try:
        wait_for(lambda: len(held.query_log("held")) > waiting, "the second to be attached", timeout=60)
        written = f"manifest of {PARTS} parts"
        wait_for(lambda: written in str(cluster.rekeeper.events("later")), "the first to be attached", timeout=60)
        host.kill()
        shutil.rmtree(part)
        host.start()
        held.clear_faults()
        assert following.wait(timeout=120) == PROBLEMS
    finally:
        following.terminate()
        following.wait()
    bring_back(problem(cluster, "later")["fix"], other)
    retry_finishes(cluster, "later", proof, before)
