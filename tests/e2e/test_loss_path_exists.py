"""Loss 4: somebody's table is at the path when the "first" replica is restored, which then becomes its follower."""

import contextlib
import os
import signal
from dataclasses import dataclass

import pytest
import tables
from clickhouse import StatementFailed
from processes import wait_for
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import FIRST_WRITTEN_ID, Ledger

ROWS = 100
# The rows of a stranger; ids that the table itself cannot have.
FOREIGN = 5


def table(name: str) -> Table:
    return Table("shop", name, settings=tables.NEVER_MERGES, rows=ROWS, inserts=5)


TABLES = [table(name) for name in ("bare", "before", "gate", "between", "same_name", "vanished")]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a table of its own."""
    with Cluster(shards=1, replicas=2) as made:
        tables.create(made.shards(), TABLES)
        made.query_all("CREATE DATABASE other")
        made.start_rekeeper()
        yield made


@dataclass
class Case:
    """One table, its path, and a stranger's table there."""

    cluster: Cluster
    name: str
    replica: str = "stranger"

    @property
    def path(self) -> str:
        return f"/tables/01/shop/{self.name}"

    @property
    def host(self):
        """The reference's."""
        return self.cluster.host("ch-01-1")

    def count(self, host: str) -> int:
        return int(self.cluster.host(host).value(f"SELECT count() FROM shop.{self.name}"))

    def detached(self) -> int:
        """Parts of the reference."""
        return int(self.host.value(f"SELECT count() FROM system.detached_parts WHERE table = '{self.name}'"))

    def create_stranger(self, rows: int) -> None:
        """On the second host, a table of the same columns."""
        host = self.cluster.host("ch-01-2")
        host.query(
            f"CREATE TABLE other.{self.name} ({tables.COLUMNS})"
            f" ENGINE = ReplicatedMergeTree('{self.path}', '{self.replica}')"
            f" PARTITION BY tuple() ORDER BY id SETTINGS {tables.NEVER_MERGES}"
        )
        if rows:
            host.query(f"INSERT INTO other.{self.name} (id) SELECT number + {FIRST_WRITTEN_ID} FROM numbers({rows})")

    def drop_stranger(self) -> None:
        self.cluster.host("ch-01-2").query(f"DROP TABLE other.{self.name} SYNC")

    def plan(self) -> None:
        """What has to be the same afterwards is written down, too."""
        self.proof = Proof(self.cluster.directory)
        record = self.proof.record()
        self.before = record | {"replicas": [r for r in record["replicas"] if r["table"] == self.name]}
        self.cluster.rekeeper("plan", self.name, "--table", f"shop.{self.name}", "--restart", "never").expect(DONE)

    @contextlib.contextmanager
    def at_the_gate(self, then: int = PROBLEMS):
        """What is done within comes when the parts are away, and a node of Rekeeper's keeps RESTORE from the path."""
        host, before = self.host, len(self.host.query_log("held"))
        host.set_faults({"pattern": "^SYSTEM DROP MARK CACHE", "wait": True})
        output = self.cluster.directory / "start.out"
        following = self.cluster.rekeeper.background("start", self.name, "--yes", output=output)
        try:
            wait_for(lambda: len(host.query_log("held")) > before, "the caches to be dropped", timeout=60)
            yield
            host.clear_faults()
            assert following.wait(timeout=120) == then
        finally:
            host.clear_faults()
            following.terminate()
            following.wait()

    @contextlib.contextmanager
    def nobody_at_the_path(self):
        """What is done within comes when that node is gone, and before RESTORE, which looks for it, makes its own."""
        os.kill(self.host.engine_pid, signal.SIGSTOP)
        try:
            with self.cluster.zookeeper.client() as client:
                client.delete(self.path)
            yield
        finally:
            os.kill(self.host.engine_pid, signal.SIGCONT)

    def problem(self) -> dict:
        """The one problem that the set has, with a remedy that can be pasted."""
        found = [t["problem"] for t in self.cluster.rekeeper.status(self.name)["tables"] if t["problem"]]
        assert {problem["code"] for problem in found} == {"PATH_EXISTS"}
        print(found[0]["message"], "|", found[0]["said"])
        return found[0]

    def names_the_stranger(self) -> None:
        problem = self.problem()
        assert self.path in problem["message"] and f"other.{self.name}" in problem["message"]
        assert f"DROP TABLE `other`.`{self.name}` SYNC" in problem["said"]
        assert f"rekeeper retry {self.name}" in problem["said"]

    def retry_fails(self) -> None:
        """The cause is still there."""
        self.cluster.rekeeper("retry", self.name).expect(DONE)
        assert self.cluster.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED")["state"] == "FAILED"

    def retry_finishes(self) -> None:
        self.cluster.rekeeper("retry", self.name).expect(DONE)
        status = self.cluster.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED", timeout=120)
        assert status["state"] == "COMPLETED"
        self.has_every_row()

    def has_every_row(self) -> None:
        """On every replica, and none that is not the table's own."""
        assert {self.count(host.name) for host in self.cluster.hosts} == {ROWS}
        assert report(self.proof.check(self.before, Ledger(self.cluster.directory / f"{self.name}.jsonl")))


def test_bare_statements_make_a_follower_of_the_stranger_of_it(cluster):
    case = Case(cluster, "bare")
    for host in cluster.hosts:
        host.query("DETACH TABLE shop.bare PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete(case.path, recursive=True)
    host = case.host
    host.query("ATTACH TABLE shop.bare")
    assert case.count("ch-01-1") == ROWS
    case.create_stranger(rows=0)
    host.query("SYSTEM RESTORE REPLICA shop.bare")
    host.query("SYSTEM SYNC REPLICA shop.bare")
    # Nobody complains.
    assert host.value("SELECT is_readonly FROM system.replicas WHERE table = 'bare'") == "0"
    assert case.count("ch-01-1") == 0
    case.drop_stranger()
    cluster.query_all("DETACH TABLE IF EXISTS shop.bare PERMANENTLY SYNC")


def test_path_that_exists_before_the_restore(cluster):
    """Found before the tables are even attached."""
    case, rekeeper = Case(cluster, "before"), cluster.rekeeper
    case.plan()
    rekeeper("start", "before", "--until", "restarted", "--yes").expect(DONE)
    case.create_stranger(rows=FOREIGN)
    rekeeper("start", "before", "--yes").expect(PROBLEMS)
    case.names_the_stranger()
    for host in cluster.hosts:
        with pytest.raises(StatementFailed):
            host.query("SELECT count() FROM shop.before")
    case.drop_stranger()
    case.retry_finishes()


def test_table_that_is_created_at_the_gate(cluster):
    """As long as RESTORE is held up nobody else gets in."""
    case = Case(cluster, "gate")
    case.plan()
    with case.at_the_gate(then=DONE), pytest.raises(StatementFailed, match="REPLICA_ALREADY_EXISTS"):
        case.create_stranger(rows=FOREIGN)
    case.has_every_row()


def test_table_that_is_created_between_the_last_look_and_restore(cluster):
    """RESTORE makes a follower of the stranger of it. Nothing is attached into that table, nothing of it stays."""
    case, rows = Case(cluster, "between"), FOREIGN
    case.plan()
    with case.at_the_gate(), case.nobody_at_the_path():
        case.create_stranger(rows)
    case.names_the_stranger()
    host = case.host
    wait_for(lambda: case.count("ch-01-1") >= rows, "the stranger's rows to be fetched")
    assert case.count("ch-01-1") == rows
    assert case.detached() == 5
    assert cluster.host("ch-01-2").value("SELECT count() FROM other.between") == str(rows)

    # As long as it is there, nothing goes on; and when it is gone, its rows are still to go.
    case.retry_fails()
    case.names_the_stranger()
    case.drop_stranger()
    case.retry_fails()
    statements = [word for word in case.problem()["said"].removeprefix("on this host: ").split("; ") if "DETACH" in word]
    assert statements and case.count("ch-01-1") == rows
    for statement in statements:
        host.query(statement)
    case.retry_finishes()


def test_stranger_with_the_replica_name_of_the_table_itself(cluster):
    """RESTORE finds its replica there and gives up; the name alone does not make it ours."""
    case = Case(cluster, "same_name", replica="r1")
    case.plan()
    with case.at_the_gate(), case.nobody_at_the_path():
        case.create_stranger(rows=FOREIGN)
    case.names_the_stranger()
    assert case.detached() == 5
    case.drop_stranger()
    case.retry_finishes()


def test_stranger_that_is_gone_when_rekeeper_looks_again(cluster):
    """Only that the reference has not made its path itself tells."""
    case = Case(cluster, "vanished")
    host = case.host
    case.plan()
    with case.at_the_gate():
        held = len(host.query_log("held"))
        with case.nobody_at_the_path():
            case.create_stranger(rows=FOREIGN)
            # The answer to RESTORE is kept back until the stranger has come and gone.
            host.set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*vanished", "wait": True, "after": True})
        wait_for(lambda: len(host.query_log("held")) > held, "RESTORE to be executed", timeout=60)
        wait_for(lambda: case.count("ch-01-1") == FOREIGN, "the stranger's rows to be fetched")
        case.drop_stranger()
    said = case.problem()["said"]
    assert "DETACH PART" in said and case.count("ch-01-1") == FOREIGN
    for statement in (word for word in said.removeprefix("on this host: ").split("; ") if "DETACH PART" in word):
        host.query(statement)
    case.retry_finishes()
