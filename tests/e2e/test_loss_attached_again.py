"""A user detaches a partition while a part of it is in limbo: cut off, by a server that was killed in RESTORE, while it
was attached. When the partition is attached again, every row of it has to be there."""

from dataclasses import replace

import pytest
from cut_restore import ALL, REFERENCE, RESTORE, ROWS, Migration, created, killed
from programs import DONE
from rig import Cluster

# Right before what is left over is looked for.
BEFORE_LEFTOVERS = "^SYSTEM DROP MARK CACHE"
DETACH, ATTACH = "ALTER TABLE {} DETACH PARTITION ID 'all'", "ALTER TABLE {} ATTACH PARTITION ID 'all'"
# The cut part is called `attaching_<part>`, or, once the server was started, `ignored_<part>`.
PLACES = {name: replace(REFERENCE[name], others=(), mending="") for name in ("attaching", "not-registered")}


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard, Rekeeper, and a database for all cases."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


def count(host, table: str) -> int:
    """The rows that a reader sees."""
    return int(host.value(f"SELECT count() FROM {table}"))


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("then", ["retry", "away"])
def test_detached_and_attached_again(cluster, name, then):
    """Before the account: the part was never the user's to detach. Asked is whether the partition is to be there."""
    host, table = cluster.hosts[0], created(cluster.hosts, f"again_{name.replace('-', '_')}_{then}")
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, PLACES[name], meanwhile=lambda: migration.hold(BEFORE_LEFTOVERS)):
            host.clear_faults()
        assert migration.until_held()
        host.query(DETACH.format(table))
        host.query(ATTACH.format(table))
        assert count(host, table) == ALL - ROWS
    problem = migration.failed_with("PARTS_UNACCOUNTED")
    assert "all_2_2_0" in problem["message"] and "attached it again" in problem["message"]
    statement = problem["said"].partition("on this host: ")[2].partition(";")[0]
    assert statement == "ALTER TABLE `d`.`" + table.removeprefix("d.") + "` DETACH PARTITION ID 'all'"
    if then == "retry":
        migration.retry()
        return migration.completed()
    host.query(statement)
    migration.retry()
    assert migration.code == DONE and {count(h, table) for h in cluster.hosts} == {0}
    host.query(ATTACH.format(table))
    assert count(host, table) == ALL


@pytest.mark.parametrize("name", PLACES)
def test_attached_again_when_restored(cluster, name):
    """A partition that stays detached is nobody's loss, if all of it can be attached."""
    host, table = cluster.hosts[0], created(cluster.hosts, f"later_{name.replace('-', '_')}")
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, PLACES[name], meanwhile=lambda: migration.hold(BEFORE_LEFTOVERS)):
            host.clear_faults()
        assert migration.until_held()
        host.query(DETACH.format(table))
    assert migration.code == DONE and {count(h, table) for h in cluster.hosts} == {0}
    host.query(ATTACH.format(table))
    assert count(host, table) == ALL
