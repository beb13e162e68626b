"""Losses 3 and 11: what lies in `detached/` under a name that RESTORE uses, and ATTACH PART of equal parts."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import tables
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

ROWS, STALE = 100, 5
# RESTORE gives the first part of a partition this name; where there is one part, it has it before as well.
PART = "all_0_0_0"
FIRST, SECOND = "ch-01-1", "ch-01-2"


def table(name: str) -> Table:
    return Table("shop", name, settings=tables.NEVER_MERGES, rows=ROWS, inserts=1)


TABLES = [table(name) for name in ("bare", "planned", "detached", "held", "equal")]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a table of its own, of one part."""
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


def count(cluster: Cluster, host: str, name: str) -> int:
    return int(cluster.host(host).value(f"SELECT count() FROM shop.{name}"))


def folder_of(cluster: Cluster, name: str) -> Path:
    """Of the table's parts on the first host."""
    host = cluster.host(FIRST)
    path = f"SELECT path FROM system.parts WHERE database = 'shop' AND table = '{name}' AND active LIMIT 1"
    return Path(host.value(path)).parent


def stale_part(cluster: Cluster, name: str) -> Path:
    """A part of the same columns with other rows, as an old backup or a half-done rescue leaves one."""
    host = cluster.host(FIRST)
    other = f"other.{name}"
    host.query("CREATE DATABASE IF NOT EXISTS other")
    host.query(f"CREATE TABLE {other} ({tables.COLUMNS}) ENGINE = MergeTree PARTITION BY tuple() ORDER BY id")
    host.query(f"INSERT INTO {other} (id) SELECT number + 1000000 FROM numbers({STALE})")
    path = host.value(f"SELECT path FROM system.parts WHERE database = 'other' AND table = '{name}' AND active")
    return Path(path)


def without_metadata(cluster: Cluster, name: str) -> None:
    """By bare statements: detached, its nodes deleted, attached read-only."""
    cluster.query_all(f"DETACH TABLE shop.{name} PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete(f"/tables/01/shop/{name}", recursive=True)
    cluster.query_all(f"ATTACH TABLE shop.{name}")
    exception = f"SELECT zookeeper_exception FROM system.replicas WHERE database = 'shop' AND table = '{name}'"
    for host in cluster.hosts:
        wait_for(lambda host=host: "No node" in host.value(exception), f"{name} to be without metadata")


def recorded(cluster: Cluster, name: str) -> tuple[Proof, dict]:
    """What has to be the same afterwards, of that one table."""
    proof = Proof(cluster.directory)
    record = proof.record()
    return proof, record | {"replicas": [replica for replica in record["replicas"] if replica["table"] == name]}


def plan(cluster: Cluster, name: str):
    return cluster.rekeeper("plan", name, "--table", f"shop.{name}", "--restart", "never")


def problem(cluster: Cluster, name: str) -> dict:
    """The one problem that the migration has."""
    found = [t["problem"] for t in cluster.rekeeper.status(name)["tables"] if t["problem"]]
    assert {problem["code"] for problem in found} == {"DETACHED_COLLISION"}
    print(found[0]["message"], "|", found[0]["fix"])
    assert f"shop.{name}" in found[0]["message"] and PART in found[0]["message"]
    return found[0]


def retry_finishes(cluster: Cluster, name: str, proof: Proof, before: dict) -> None:
    """Every row of the table is there once, and no stale one."""
    cluster.rekeeper("retry", name).expect(DONE)
    status = cluster.rekeeper.wait_for_state(name, "COMPLETED", "FAILED", timeout=120)
    assert status["state"] == "COMPLETED"
    assert {count(cluster, host, name) for host in (FIRST, SECOND)} == {ROWS}
    assert report(proof.check(before, Ledger(cluster.directory / f"{name}.jsonl")))


@contextlib.contextmanager
def restore_held(cluster: Cluster, name: str):
    """What is done within comes after Rekeeper's last look at `detached/` and before RESTORE."""
    host = cluster.host(FIRST)
    before = len(host.query_log("held"))
    host.set_faults({"pattern": f"^SYSTEM RESTORE REPLICA .*{name}", "wait": True})
    output = cluster.directory / "start.out"
    following = cluster.rekeeper.background("start", name, "--yes", output=output)
    try:
        wait_for(lambda: len(host.query_log("held")) > before, "RESTORE to be sent", timeout=60)
        yield
        host.clear_faults()
        assert following.wait(timeout=120) == PROBLEMS
    finally:
        following.terminate()
        following.wait()


def test_bare_restore_attaches_the_stale_part_in_place_of_the_good_one(cluster):
    stale = stale_part(cluster, "bare")
    without_metadata(cluster, "bare")
    assert count(cluster, FIRST, "bare") == ROWS
    shutil.copytree(stale, folder_of(cluster, "bare") / "detached" / PART)
    host = cluster.host(FIRST)
    host.query("SYSTEM RESTORE REPLICA shop.bare")
    # Nobody complains, and the second replica clones what there is.
    assert host.value("SELECT is_readonly FROM system.replicas WHERE table = 'bare'") == "0"
    cluster.host(SECOND).query("SYSTEM RESTORE REPLICA shop.bare")
    cluster.host(SECOND).query("SYSTEM SYNC REPLICA shop.bare")
    assert {count(cluster, host, "bare") for host in (FIRST, SECOND)} == {STALE}
    cluster.query_all("DETACH TABLE shop.bare PERMANENTLY SYNC")


def test_plan_is_blocked(cluster):
    lies = folder_of(cluster, "planned") / "detached" / PART
    shutil.copytree(stale_part(cluster, "planned"), lies)
    refused = plan(cluster, "planned")
    refused.expect(BLOCKED)
    assert "DETACHED_COLLISION" in refused.stdout and PART in refused.stdout
    assert count(cluster, FIRST, "planned") == ROWS
    assert lies.exists()


def test_found_right_before_restore(cluster):
    """Nothing has been sent, the table has its rows, and what lies there stays where it is."""
    proof, before = recorded(cluster, "detached")
    plan(cluster, "detached").expect(DONE)
    lies = folder_of(cluster, "detached") / "detached" / PART
    cluster.rekeeper("start", "detached", "--until", "restarted", "--yes").expect(DONE)
    shutil.copytree(stale_part(cluster, "detached"), lies)
    cluster.rekeeper("start", "detached", "--yes").expect(PROBLEMS)
    problem(cluster, "detached")
    assert count(cluster, FIRST, "detached") == ROWS
    assert lies.exists()
    kept = lies.rename(cluster.directory / "kept")
    retry_finishes(cluster, "detached", proof, before)
    assert (kept / "count.txt").read_text() == str(STALE)


def test_created_between_the_last_look_and_restore(cluster):
    """RESTORE attaches the stale part. The good one is not attached beside it before somebody has taken that away."""
    proof, before = recorded(cluster, "held")
    stale = stale_part(cluster, "held")
    plan(cluster, "held").expect(DONE)
    detached = folder_of(cluster, "held") / "detached"
    with restore_held(cluster, "held"):
        shutil.copytree(stale, detached / PART)
    assert count(cluster, FIRST, "held") == STALE
    assert [folder.name for folder in detached.iterdir()] == [f"{PART}_try1"]
    problem(cluster, "held")
    cluster.rekeeper("retry", "held").expect(DONE)
    assert cluster.rekeeper.wait_for_state("held", "COMPLETED", "FAILED")["state"] == "FAILED"
    fix = problem(cluster, "held")["fix"]
    statement = re.search(r"ALTER TABLE .*? DETACH PART '[^']*'", fix).group()
    cluster.host(FIRST).query(statement)
    # Its folder is in the way of the good part's, and says so until it is moved, too.
    cluster.rekeeper("retry", "held").expect(DONE)
    assert cluster.rekeeper.wait_for_state("held", "COMPLETED", "FAILED")["state"] == "FAILED"
    assert problem(cluster, "held")["fix"].startswith("on this host: mv ")
    source, target = re.search(r"mv '([^']*)' '([^']*)'", fix).groups()
    assert Path(source).parent == detached
    Path(source).rename(target)
    retry_finishes(cluster, "held", proof, before)
    assert (Path(target) / "count.txt").read_text() == str(STALE)


def test_bare_attach_part_takes_equal_parts_for_one(cluster):
    """Loss 11: the answer is OK each time."""
    host = cluster.host(FIRST)
    host.query(
        "CREATE TABLE shop.again (id UInt64) ENGINE = ReplicatedMergeTree('/again', 'r1') PARTITION BY tuple()"
        f" ORDER BY id SETTINGS {tables.NEVER_MERGES}"
    )
    for _ in range(4):
        host.query("INSERT INTO shop.again SELECT number FROM numbers(25) SETTINGS insert_deduplicate = 0")
    assert count(cluster, FIRST, "again") == ROWS
    host.query("ALTER TABLE shop.again DETACH PARTITION tuple()")
    parts = [row[0] for row in host.query("SELECT name FROM system.detached_parts WHERE table = 'again' ORDER BY name")]
    assert len(parts) == 4
    for part in parts:
        host.query(f"ALTER TABLE shop.again ATTACH PART '{part}'")
    assert count(cluster, FIRST, "again") == ROWS // 4
