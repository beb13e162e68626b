"""The version of a table's definition after a restore: without it a table is there and refuses every ALTER.

RESTORE raises the version of `<path>/metadata` by the highest `metadata_version` of a replica's own parts, once per replica, so
that of two replicas of a table that was altered three times both say 3 and the node says 6 (with three replicas 9): ALTER
ends with 517 on both. After a restore of parts that are all older than the ALTERs it is 0, and a part that was detached
after them has a higher one than its table: it takes a later RENAME for done, and its values are gone.
"""

import contextlib

import pytest
from clickhouse import StatementFailed
from one_table import OneTable
from processes import wait_for
from programs import DONE
from rig import Cluster

NOT_UP_TO_DATE = "Code: 517"


@pytest.fixture(scope="module")
def cluster():
    """Three replicas with Rekeeper."""
    with Cluster(shards=1, replicas=3) as cluster:
        cluster.query_all("CREATE DATABASE shop")
        cluster.start_rekeeper()
        yield cluster


class Altered(OneTable):
    """`shop.NAME`, altered three times; what came after that is up to the case."""

    def __init__(self, cluster: Cluster, name: str):
        cluster.query_all(
            f"CREATE TABLE shop.{name} (id UInt64, v UInt64 DEFAULT 7)"
            f" ENGINE = ReplicatedMergeTree('/tables/01/shop/{name}', '{{replica}}') PARTITION BY id % 3 ORDER BY id"
        )
        super().__init__(cluster, name, rows=0)
        for number in range(3):
            self.alter(cluster.hosts[0], f"ADD COLUMN a{number} UInt8")

    def alter(self, host, what: str) -> None:
        """On every replica when it answers."""
        host.query(f"ALTER TABLE shop.{self.name} {what} SETTINGS alter_sync = 2", timeout=30)

    def insert(self, *ids: int) -> None:
        """On the first host; it is on all of them afterwards."""
        values = ", ".join(f"({number}, {number * 10})" for number in ids)
        self.cluster.hosts[0].query(f"INSERT INTO shop.{self.name} (id, v) VALUES {values}")
        self.synced()

    def synced(self) -> None:
        """Every replica has what the others have."""
        self.cluster.query_all(f"SYSTEM SYNC REPLICA shop.{self.name}")

    def versions(self) -> tuple[int, list[int], list[int]]:
        """Of the table's node, of the replicas' nodes, and in the servers' memory."""
        path = f"/tables/01/shop/{self.name}"
        with self.cluster.zookeeper.client() as client:
            node = client.exists(f"{path}/metadata").version
            of = [f"{path}/replicas/{host.replica}/metadata_version" for host in self.cluster.hosts]
            replicas = [int(client.get(name)[0]) for name in of]
        sql = f"SELECT metadata_version FROM system.tables WHERE database = 'shop' AND name = '{self.name}'"
        return node, replicas, [int(host.value(sql)) for host in self.cluster.hosts]

    def agree(self) -> bool:
        """Whether there is one version everywhere."""
        node, replicas, memory = self.versions()
        print(self.name, node, replicas, memory)
        return {node} == {*replicas, *memory}

    def takes_alters(self) -> None:
        """On every replica, one after another, and the columns come to all."""
        for host in self.cluster.hosts:
            self.alter(host, f"ADD COLUMN by_{host.replica} UInt8")
        columns = f"SELECT count() FROM system.columns WHERE database = 'shop' AND table = '{self.name}' AND name LIKE 'by_%'"
        assert {host.value(columns) for host in self.cluster.hosts} == {str(len(self.cluster.hosts))}
        assert self.agree()

    def values(self, column: str = "v") -> str:
        """Ids and values, the same on every replica."""
        sql = f"SELECT id, {column} FROM shop.{self.name} ORDER BY id"
        (found,) = {str(host.query(sql)) for host in self.cluster.hosts}
        return found

    def refuses_alters(self) -> None:
        """As bare statements leave it."""
        for host in self.cluster.hosts:
            with pytest.raises(StatementFailed, match=NOT_UP_TO_DATE):
                self.alter(host, "ADD COLUMN nobody UInt8")

    def takes_an_alter(self, host) -> bool:
        """It is refused for the moment between RESTORE and its mending."""
        try:
            host.query(f"ALTER TABLE shop.{self.name} ADD COLUMN IF NOT EXISTS meanwhile UInt8 SETTINGS alter_sync = 0")
        except StatementFailed as failed:
            assert failed.code == 517
            return False
        return True

    def migrate(self, name: str = "") -> None:
        """To its end."""
        rekeeper, name = self.cluster.rekeeper, name or self.name
        rekeeper("plan", name, "--table", f"shop.{self.name}", "--restart", "never").expect(DONE)
        rekeeper("start", name, "--yes").expect(DONE)

    @contextlib.contextmanager
    def held_at(self, host, pattern: str):
        """What is done within comes before that statement of the migration is executed; afterwards it has ended."""
        before, rekeeper = len(host.query_log("held")), self.cluster.rekeeper
        rekeeper("plan", self.name, "--table", f"shop.{self.name}", "--restart", "never").expect(DONE)
        host.set_faults({"pattern": f"{pattern}.*{self.name}", "wait": True})
        output = self.cluster.directory / f"{self.name}.out"
        following = rekeeper.background("start", self.name, "--yes", output=output)
        try:
            wait_for(lambda: len(host.query_log("held")) > before, f"{pattern} to be sent", timeout=60)
            yield
            host.clear_faults()
            assert following.wait(timeout=120) == DONE
        finally:
            following.terminate()
            following.wait()

    def version_matters(self) -> bool:
        """Whether the engine refuses ALTERs where it differs, as 26.9 does. 25.8 takes them, and sees a version that is
        put right only when its replica is started anew."""
        return int(self.cluster.hosts[0].value("SELECT version()").split(".")[0]) >= 26

    def started(self) -> list[str]:
        """The hosts on which its replica was started anew."""
        word = f"SYSTEM RESTART REPLICA `shop`.`{self.name}`"
        return [host.name for host in self.cluster.hosts if any(r["sql"].endswith(word) for r in host.query_log())]


def test_a_table_that_was_altered_takes_alters_after_a_migration(cluster):
    """Parts that were written after the ALTERs; twice."""
    table = Altered(cluster, "altered")
    table.insert(1, 2)
    for name in "altered", "altered_again":
        table.migrate(name)
        assert table.agree()
        table.takes_alters() if name == "altered_again" else None
    assert table.versions()[0] == 6, "it goes up by the three ALTERs, and not by the restores"
    if table.version_matters():
        assert table.started() == [], "that would keep its users waiting"


def test_what_was_detached_before_survives_a_rename_after(cluster):
    """The parts of the table are older than the ALTERs, the one that was detached is not."""
    table = Altered(cluster, "detached_before")
    table.insert(1)
    before = table.values()
    table.cluster.hosts[0].query("ALTER TABLE shop.detached_before DETACH PARTITION 1")
    table.synced()
    table.migrate()
    cluster.hosts[0].query("ALTER TABLE shop.detached_before ATTACH PARTITION 1")
    table.synced()
    assert table.values() == before
    table.alter(cluster.hosts[1], "RENAME COLUMN v TO w")
    assert table.values("w") == before
    assert table.started() == ["ch-01-1"], "the reference, of which the parts are older"


def test_the_plan_names_a_table_that_is_broken_and_the_migration_heals_it(cluster):
    """By bare statements."""
    table = Altered(cluster, "broken")
    table.insert(1, 2)
    before = table.values()
    table.without_metadata()
    table.restore_by_hand()
    if not table.version_matters():
        pytest.skip("the engine takes ALTERs of a table that was restored by bare statements")
    table.refuses_alters()
    plan = cluster.rekeeper("plan", "look", "--table", "shop.broken", "--restart", "never", "-o", "json").expect(DONE)
    (warning,) = [found for found in plan.json["warnings"] if found["code"] == "METADATA_VERSION_DIFFERS"]
    print(warning["message"], "|", warning["fix"])
    assert warning["table"] == "shop.broken" and "r1 3, r2 3, r3 3" in warning["message"]
    table.migrate("heals")
    table.takes_alters()
    assert table.values() == before
    plan = cluster.rekeeper("plan", "again", "--table", "shop.broken", "--restart", "never", "-o", "json").expect(DONE)
    assert "METADATA_VERSION_DIFFERS" not in [found["code"] for found in plan.json["warnings"]]
    for name in "look", "again":
        cluster.rekeeper("abort", name).expect(DONE)


def test_users_alter_the_reference_while_a_follower_is_restored(cluster):
    """It is refused on nobody who is in service, and comes to the follower."""
    table = Altered(cluster, "altered_meanwhile")
    table.insert(1, 2)
    before = table.values()
    first, second, third = cluster.hosts
    with table.held_at(third, "^SYSTEM RESTORE REPLICA"):
        started = f"SELECT count() FROM system.replicas WHERE table = '{table.name}' AND NOT is_readonly"
        for host in first, second:
            wait_for(lambda host=host: host.value(started) == "1", f"{host.name} to be in service", timeout=60)
        wait_for(lambda: table.takes_an_alter(second), "the second replica to take an ALTER", timeout=30)
        # Three ALTERs before, and this one.
        is_there = f"SELECT metadata_version FROM system.tables WHERE name = '{table.name}'"
        wait_for(lambda: first.value(is_there) == "4", "the first replica to have it", timeout=30)
        first.query(f"ALTER TABLE shop.{table.name} RENAME COLUMN v TO w SETTINGS alter_sync = 0", timeout=30)
    assert table.values("w") == before
    table.takes_alters()


def test_an_agent_that_was_killed_while_it_mended_goes_on(cluster):
    """The nodes have another version already, and the server has not read it."""
    table = Altered(cluster, "half_mended")
    table.insert(1)
    path, first = f"/tables/01/shop/{table.name}", cluster.hosts[0]
    with table.held_at(first, "^SYSTEM START MERGES"), cluster.zookeeper.client() as client:
        client.set(f"{path}/metadata", client.get(f"{path}/metadata")[0])
        client.set(f"{path}/replicas/r1/metadata_version", str(table.versions()[0]).encode())
        assert not table.agree()
    table.takes_alters()
    assert "ch-01-1" in table.started()
