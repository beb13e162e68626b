"""Losses 3 and 11: what lies in `detached/` under a name that RESTORE uses, and ATTACH PART of equal parts."""

import re
import shutil
from pathlib import Path

import pytest
import tables
from one_table import FIRST, OneTable
from programs import BLOCKED, DONE, PROBLEMS
from rig import Cluster
from tables import Table

ROWS, STALE = 100, 5
# RESTORE gives the first part of a partition this name; where there is one part, it has it before as well.
PART = "all_0_0_0"


def table(name: str) -> Table:
    return Table("shop", name, settings=tables.NEVER_MERGES, rows=ROWS, inserts=1)


TABLES = [table(name) for name in ("bare", "planned", "detached", "held", "held_and_lost")]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a table of its own, of one part."""
    with Cluster(shards=1, replicas=2) as made:
        tables.create(made.shards(), TABLES)
        made.start_rekeeper()
        yield made


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


def test_bare_restore_attaches_the_stale_part_in_place_of_the_good_one(cluster):
    case, stale = OneTable(cluster, "bare", ROWS), stale_part(cluster, "bare")
    case.without_metadata()
    assert case.count() == ROWS
    shutil.copytree(stale, folder_of(cluster, "bare") / "detached" / PART)
    case.restore_by_hand()
    assert case.counts() == {STALE}
    cluster.query_all("DETACH TABLE shop.bare PERMANENTLY SYNC")


def test_plan_is_blocked(cluster):
    case, lies = OneTable(cluster, "planned", ROWS), folder_of(cluster, "planned") / "detached" / PART
    shutil.copytree(stale_part(cluster, "planned"), lies)
    refused = case.plan().expect(BLOCKED)
    assert "DETACHED_COLLISION" in refused.stdout and PART in refused.stdout
    assert case.count() == ROWS
    assert lies.exists()


def test_found_right_before_restore(cluster):
    """Nothing has been sent, the table has its rows, and what lies there stays where it is."""
    case, lies = OneTable(cluster, "detached", ROWS), folder_of(cluster, "detached") / "detached" / PART
    case.plan().expect(DONE)
    cluster.rekeeper("start", "detached", "--until", "restarted", "--yes").expect(DONE)
    shutil.copytree(stale_part(cluster, "detached"), lies)
    cluster.rekeeper("start", "detached", "--yes").expect(PROBLEMS)
    case.problem("DETACHED_COLLISION", PART)
    assert case.count() == ROWS
    assert lies.exists()
    kept = lies.rename(cluster.directory / "kept")
    case.retry_finishes()
    assert (kept / "count.txt").read_text() == str(STALE)


@pytest.mark.parametrize("name", ["held", "held_and_lost"])
def test_created_between_the_last_look_and_restore(cluster, name):
    """RESTORE attaches the stale part. The good one is not attached beside it before somebody has taken that away; nor is
    that taken for a drop of the good one, also by an agent that has lost its notes."""
    case, stale = OneTable(cluster, name, ROWS), stale_part(cluster, name)
    case.plan().expect(DONE)
    detached = folder_of(cluster, name) / "detached"
    with case.held(FIRST, f"^SYSTEM RESTORE REPLICA .*{name}`"):
        shutil.copytree(stale, detached / PART)
    assert case.count() == STALE
    assert [folder.name for folder in detached.iterdir()] == [f"{PART}_try1"]
    case.problem("DETACHED_COLLISION", PART)
    case.retry_fails()
    said = case.problem("DETACHED_COLLISION", PART)["said"]
    statement = re.search(r"ALTER TABLE .*? DETACH PART '[^']*'", said).group()
    cluster.host(FIRST).query(statement)
    # Its folder is in the way of the good part's, and says so until it is moved, too.
    case.retry_fails()
    assert case.problem("DETACHED_COLLISION", PART)["said"].startswith("on this host: mv ")
    source, target = re.search(r"mv '([^']*)' '([^']*)'", said).groups()
    assert Path(source).parent == detached
    Path(source).rename(target)
    if name == "held_and_lost":
        agent = cluster.agents[FIRST]
        agent.kill()
        shutil.rmtree(agent.state)
        agent.start()
        cluster.rekeeper.wait_for_agents(FIRST)
    case.retry_finishes()
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
    count = "SELECT count() FROM shop.again"
    assert host.value(count) == str(ROWS)
    host.query("ALTER TABLE shop.again DETACH PARTITION tuple()")
    parts = [row[0] for row in host.query("SELECT name FROM system.detached_parts WHERE table = 'again' ORDER BY name")]
    assert len(parts) == 4
    for part in parts:
        host.query(f"ALTER TABLE shop.again ATTACH PART '{part}'")
    assert host.value(count) == str(ROWS // 4)
