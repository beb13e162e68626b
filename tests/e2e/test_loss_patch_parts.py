"""Patch parts (lightweight UPDATE): a restore shifts part names, and the updated values are gone. Loss 10."""

import pytest
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS
from rig import Cluster

SETTINGS = (
    "enable_block_number_column = 1, enable_block_offset_column = 1,"
    " cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, max_cleanup_delay_period = 1"
)
# 135 of 30 rows, and 1000 more for each of the last 15.
UPDATED = 15_135


@pytest.fixture(scope="module")
def cluster():
    """One host with Rekeeper."""
    with Cluster(shards=1, replicas=1) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


class Patched:
    """A table in three parts, of which the first two are merged: a restore gives both other names."""

    def __init__(self, cluster: Cluster, name: str):
        self.host, self.name, self.path = cluster.hosts[0], f"d.{name}", f"/tables/01/d/{name}"
        self.host.query(
            f"CREATE TABLE {self.name} (id UInt64, v UInt64) ENGINE = ReplicatedMergeTree('{self.path}', '{{replica}}')"
            f" ORDER BY id SETTINGS {SETTINGS}"
        )
        for number in range(3):
            self.host.query(f"INSERT INTO {self.name} SELECT number + {number * 10}, number FROM numbers(10)")
            if number == 1:
                self.host.query(f"OPTIMIZE TABLE {self.name} FINAL")

    def update(self) -> None:
        """Makes a patch part."""
        update = f"UPDATE {self.name} SET v = v + 1000 WHERE id >= 15 SETTINGS enable_lightweight_update = 1"
        self.host.query(update)
        assert self.patches() and self.sum() == UPDATED

    def sum(self) -> int:
        """Of the values, from parts and patches."""
        return int(self.host.value(f"SELECT sum(v) FROM {self.name}"))

    def patches(self) -> list:
        """The active patch parts."""
        return self.host.query(
            "SELECT name FROM system.parts WHERE concat(database, '.', table) = {t:String} AND active"
            " AND startsWith(partition_id, 'patch-')",
            t=self.name,
        )


def test_bare_statements_lose_the_updated_values(cluster):
    """Writable, no error, and after the next merge the values are those of before the UPDATE."""
    table = Patched(cluster, "bare")
    table.update()
    table.host.query(f"DETACH TABLE {table.name} PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete(table.path, recursive=True)
    table.host.query(f"ATTACH TABLE {table.name}")
    table.host.query(f"SYSTEM RESTORE REPLICA {table.name}")
    for cache in ("MARK", "UNCOMPRESSED", "PRIMARY INDEX", "QUERY CONDITION"):
        table.host.query(f"SYSTEM DROP {cache} CACHE")
    table.host.query(f"OPTIMIZE TABLE {table.name} FINAL")
    found = table.sum()
    print(f"the sum is {found} instead of {UPDATED}")
    assert found < UPDATED


def test_the_plan_is_blocked_and_names_the_statement(cluster):
    """The statement materialises the values; afterwards the migration keeps them."""
    table, rekeeper = Patched(cluster, "planned"), cluster.rekeeper
    table.update()
    plan = ("plan", "planned", "--table", table.name, "--restart", "never")
    (blocker,) = rekeeper(*plan, "-o", "json").expect(BLOCKED).json["blockers"]
    assert blocker["code"] == "PATCH_PARTS"
    statement = blocker["message"].partition("materialise them: ")[2]
    assert statement == "ALTER TABLE `d`.`planned` APPLY PATCHES"
    table.host.query(statement)
    wait_for(lambda: not table.patches(), "the patch parts to go", 90)
    rekeeper(*plan).expect(DONE)
    rekeeper("start", "planned", "--yes").expect(DONE)
    table.host.query(f"OPTIMIZE TABLE {table.name} FINAL")
    assert table.sum() == UPDATED


def test_an_update_that_comes_after_the_checks_stops_the_table(cluster):
    """No node is deleted, and it is back in service with its values."""
    table, rekeeper = Patched(cluster, "late"), cluster.rekeeper
    rekeeper("plan", "late", "--table", table.name, "--restart", "never").expect(DONE)
    table.host.set_faults({"pattern": "^SYSTEM SYNC REPLICA .*late", "wait": True})
    following = rekeeper.background("start", "late", "--yes", output=cluster.directory / "start.out")
    wait_for(lambda: table.host.query_log("held"), "the sync to arrive", 60)
    table.update()
    table.host.clear_faults()
    assert following.wait(timeout=120) == PROBLEMS
    (problem,) = [t["problem"] for t in rekeeper.status("late")["tables"]]
    print(problem)
    assert problem["code"] == "NOT_SETTLED" and "APPLY PATCHES" in problem["message"]
    readonly = "SELECT is_readonly FROM system.replicas WHERE concat(database, '.', table) = {t:String}"
    wait_for(lambda: table.host.value(readonly, t=table.name) == "0", "it to be in service", 60)
    assert table.sum() == UPDATED
    table.host.query(f"ALTER TABLE {table.name} APPLY PATCHES")
    wait_for(lambda: not table.patches(), "the patch parts to go", 90)
    rekeeper("retry", "late").expect(DONE, PROBLEMS)
    rekeeper.wait_for_state("late", "COMPLETED", timeout=120)
    table.host.query(f"OPTIMIZE TABLE {table.name} FINAL")
    assert table.sum() == UPDATED
