"""Who gives a migration up half-way, after the nodes were deleted, and restores tables by hand: Rekeeper takes what it
finds when every part on record is there, and says what is open when that is not so."""

from pathlib import Path

import pytest
import tables
from one_table import FIRST, SECOND, OneTable
from processes import wait_for
from programs import DONE, PROBLEMS
from rig import Cluster
from tables import Table

CACHES = ["MARK", "PRIMARY INDEX", "UNCOMPRESSED", "QUERY CONDITION"]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a table and a migration of its own."""
    with Cluster(shards=1, replicas=2) as made:
        made.start_rekeeper()
        yield made


class GivenUp(OneTable):
    """A migration of six parts that stands after the deletion."""

    def __init__(self, cluster: Cluster, name: str, settings: str = tables.NEVER_MERGES):
        tables.create(cluster.shards(), [Table("shop", name, settings=settings, rows=60, inserts=6)])
        for host in cluster.hosts:
            host.query(f"SYSTEM SYNC REPLICA shop.{name}")
        super().__init__(cluster, name, 60)
        self.plan().expect(DONE)
        cluster.rekeeper("start", name, "--until", "zk-cleaned", "--yes").expect(DONE)
        (replica_set,) = cluster.rekeeper.status(name)["replica_sets"]
        assert replica_set["reference"] == FIRST

    def by_hand(self, host: str) -> None:
        """ATTACH and RESTORE, as somebody does who knows of nothing else."""
        server = self.cluster.host(host)
        server.query(f"ATTACH TABLE shop.{self.name}")
        readonly = f"SELECT is_readonly FROM system.replicas WHERE table = '{self.name}' AND zookeeper_exception != ''"
        wait_for(lambda: server.value(readonly) == "1", "the table to be attached")
        server.query(f"SYSTEM RESTORE REPLICA shop.{self.name}")
        server.query(f"SYSTEM SYNC REPLICA shop.{self.name} LIGHTWEIGHT")
        for cache in CACHES:
            server.query(f"SYSTEM DROP {cache} CACHE")

    def goes_on(self) -> None:
        """To the end, with every row once, every part accounted for, merges running, and nothing of Rekeeper's left."""
        self.cluster.rekeeper("start", self.name, "--yes").expect(DONE)
        self.is_whole()
        for table in self.cluster.rekeeper("report", self.name, "-o", "json").expect(DONE).json["tables"]:
            assert sum(part["rows"] for part in table["parts"]) == 60 and "open" not in table["fates"], table
        with self.cluster.zookeeper.client() as client:
            assert [node for node in client.get_children("/") if "rekeeper" in node] == []

    def fails(self, code: str, host: str) -> dict:
        """The problem of the table on that host."""
        self.cluster.rekeeper("start", self.name, "--yes").expect(PROBLEMS)
        rows = self.cluster.rekeeper("problems", self.name, "-o", "json").expect(DONE).json
        print(rows)
        (row,) = [row for row in rows if row["host"] == host]
        assert row["code"] == code, rows
        return row


@pytest.mark.parametrize("order", [[FIRST], [FIRST, SECOND], [SECOND, FIRST]], ids=["first", "both", "other way round"])
def test_what_was_restored_is_taken(cluster, order):
    case = GivenUp(cluster, f"taken_{len(order)}_{order[0][-1]}")
    for host in order:
        case.by_hand(host)
    case.goes_on()


def test_what_was_written_and_merged_since_is_taken(cluster):
    """Clients write as soon as the table is there, and nobody has stopped merges."""
    case = GivenUp(cluster, "since", settings="old_parts_lifetime = 3600")
    case.by_hand(FIRST)
    first = cluster.host(FIRST)
    first.query("OPTIMIZE TABLE shop.since FINAL")
    first.query("INSERT INTO shop.since (id) SELECT 1000 + number FROM numbers(5)")
    assert int(first.value("SELECT count() FROM system.parts WHERE active AND table = 'since'")) == 2
    case.by_hand(SECOND)
    cluster.rekeeper("start", "since", "--yes").expect(DONE)
    assert case.counts() == {65}
    cluster.query_all("ALTER TABLE shop.since DELETE WHERE id >= 1000 SETTINGS mutations_sync = 2")
    case.is_whole()


def test_the_other_replica_was_restored_first(cluster):
    """The one that was to be first must not become a follower unseen: the statements are told, and then all is taken."""
    case = GivenUp(cluster, "wrong")
    case.by_hand(SECOND)
    problem = case.fails("ATTACH_FAILED", FIRST)
    assert "restored replica r2 before it" in problem["message"]
    said = problem["said"]
    for statement in ("ATTACH TABLE `shop`.`wrong`", "SYSTEM RESTORE REPLICA `shop`.`wrong`"):
        assert f"{statement};" in said
    case.by_hand(FIRST)
    case.retry_finishes()


def test_a_part_that_is_not_there_is_not_taken(cluster):
    """It was set aside before the RESTORE by hand: the statements find it and bring it back."""
    case, first = GivenUp(cluster, "short"), cluster.host(FIRST)
    first.query("ATTACH TABLE shop.short")
    folder = Path(first.value("SELECT data_paths[1] FROM system.tables WHERE name = 'short'"))
    first.query("DETACH TABLE shop.short PERMANENTLY SYNC")
    (folder / "all_2_2_0").rename(folder / "detached" / "all_20_20_0")
    case.by_hand(FIRST)
    assert case.count() == 50
    problem = case.fails("PARTS_UNACCOUNTED", FIRST)
    assert "all_2_2_0" in problem["message"] and "ATTACH PART" in problem["said"] and "skip short --host" in problem["said"]
    # Nothing was restored beside it, and nothing attached.
    assert case.count() == 50
    case.retry_fails()
    first.query("ALTER TABLE shop.short ATTACH PART 'all_20_20_0'")
    case.retry_finishes()


def test_a_table_that_somebody_else_made_is_not_taken(cluster):
    """It has the path and the name of a replica, and another UUID."""
    case, second = GivenUp(cluster, "other"), cluster.host(SECOND)
    second.query(
        "CREATE TABLE shop.stranger (id UInt64, at DateTime, text String)"
        " ENGINE = ReplicatedMergeTree('/tables/01/shop/other', 'r1') ORDER BY id"
    )
    problem = case.fails("PATH_EXISTS", FIRST)
    assert "shop.stranger" in problem["message"]
    second.query("DROP TABLE shop.stranger SYNC")
    case.retry_finishes()
