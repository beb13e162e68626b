"""Tables that are dropped, made anew, renamed, exchanged or attached by somebody in the middle of a migration: it goes on with
the very table of the plan, or stops at it and says how it gets it back; the others go on."""

import pytest
import tables
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import FIRST_WRITTEN_ID, Ledger

FIRST, SECOND = "ch-01-1", "ch-01-2"
ROWS = 40


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each test has a database and a migration of its own."""
    with Cluster(shards=1, replicas=2) as made:
        made.start_rekeeper()
        yield made


class Case:
    """A migration of several tables in a database."""

    def __init__(self, cluster: Cluster, name: str, names: list[str]):
        self.cluster, self.rekeeper, self.name = cluster, cluster.rekeeper, name
        self.made = {table: Table(name, table, settings=tables.NEVER_MERGES, rows=ROWS, inserts=4) for table in names}
        tables.create(cluster.shards(), list(self.made.values()))
        self.proof = Proof(cluster.directory)
        self.ledger = Ledger(cluster.directory / f"{name}.jsonl")
        record = self.proof.record()
        self.before = record | {"replicas": [r for r in record["replicas"] if r["database"] == name]}
        self.rekeeper("plan", name, "--database", name, "--restart", "never").expect(DONE)

    def all(self, *statements: str) -> None:
        for statement in statements:
            self.cluster.query_all(statement.format(db=self.name))

    def recreate(self, table: str) -> None:
        """Under the same name and path, with no rows."""
        self.all(f"DROP TABLE {{db}}.{table} SYNC")
        for host in self.cluster.hosts:
            self.made[table].create(host)

    def in_service(self, table: str) -> None:
        state = f"SELECT is_readonly FROM system.replicas WHERE database = '{self.name}' AND table = '{table}'"
        for host in self.cluster.hosts:
            wait_for(lambda host=host: host.query(state) == [["0"]], f"{table} to be in service", timeout=30)

    def problems(self) -> dict[str, dict]:
        found = self.rekeeper.status(self.name)["tables"]
        return {table["table"]: table["problem"] for table in found if table["problem"]}

    def start(self, *options, code: int = DONE) -> None:
        self.rekeeper("start", self.name, "--yes", *options).expect(code)

    def statuses(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for table in self.rekeeper.status(self.name)["tables"]:
            found.setdefault(table["table"], set()).add(table["status"])
        return found

    def retry_finishes(self, tables: list[str]) -> None:
        """Completed, and every row of these tables is there."""
        self.rekeeper("retry", self.name).expect(DONE)
        self.is_completed(tables)

    def is_completed(self, tables: list[str]) -> None:
        status = self.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED", timeout=120)
        assert status["state"] == "COMPLETED", self.problems()
        kept = self.before | {"replicas": [r for r in self.before["replicas"] if r["table"] in tables]}
        assert report(self.proof.check(kept, self.ledger))


def test_between_plan_and_start(cluster):
    """Nothing is begun, and every table that changed is named."""
    case = Case(cluster, "planned", ["same", "dropped", "recreated", "renamed", "exchanged", "other", "altered"])
    case.all("DROP TABLE {db}.dropped SYNC", "RENAME TABLE {db}.renamed TO {db}.renamed_to")
    case.all("EXCHANGE TABLES {db}.exchanged AND {db}.other")
    case.recreate("recreated")
    cluster.hosts[0].query("ALTER TABLE planned.altered ADD COLUMN w UInt64 SETTINGS alter_sync = 2")
    said = cluster.rekeeper("start", "planned", "--yes").expect(BLOCKED).stderr
    print(said)
    for table in ("dropped", "recreated", "renamed", "exchanged", "other"):
        assert f"planned.{table}" in said, table
    assert "planned.same" not in said
    assert cluster.rekeeper.status("planned")["state"] == "PLANNED"
    detached = "SELECT count() FROM system.detached_tables WHERE database = 'planned'"
    assert [host.value(detached) for host in cluster.hosts] == ["0", "0"]


def test_while_detached(cluster):
    """Somebody attaches tables on their old metadata and goes on with them."""
    case = Case(cluster, "detached", ["attached", "altered", "renamed", "exchanged", "dropped", "recreated"])
    case.start("--until", "detached")
    for table in case.made:
        case.all(f"ATTACH TABLE {{db}}.{table}")
        case.in_service(table)
    first = cluster.hosts[0]
    case.all("RENAME TABLE {db}.renamed TO {db}.renamed_to", "DROP TABLE {db}.dropped SYNC")
    case.all("CREATE TABLE {db}.decoy (id UInt64) ENGINE = Memory", "EXCHANGE TABLES {db}.exchanged AND {db}.decoy")
    case.recreate("recreated")
    first.query(f"INSERT INTO detached.attached (id) VALUES ({FIRST_WRITTEN_ID})")
    case.ledger.acknowledge("01", "detached", "attached", [FIRST_WRITTEN_ID])
    first.query("ALTER TABLE detached.altered MODIFY SETTING old_parts_lifetime = 9")
    case.start(code=PROBLEMS)
    problems = case.problems()
    assert problems.keys() == {"renamed", "exchanged", "dropped", "recreated"}
    for table, problem in problems.items():
        print(table, case.statuses()[table], problem)
        # Of the one that is gone from all hosts there are no nodes, either.
        assert problem["code"] == ("RECORD_FAILED" if table == "dropped" else "TABLE_CHANGED")
        assert f"detached.{table}" in problem["message"] or f"/detached/{table}" in problem["message"]
    # What was put back into service is so, and those that are gone are not waited for.
    assert {table: statuses for table, statuses in case.statuses().items() if statuses != {"RESTORED"}} == {
        table: {"INIT"} for table in problems
    }
    for table in ("renamed", "exchanged"):
        case.all(remedy(problems[table]))
    for table in ("dropped", "recreated"):
        assert "rekeeper skip" in problems[table]["fix"]
        cluster.rekeeper("skip", "detached", "--table", f"detached.{table}").expect(DONE)
    case.retry_finishes(["attached", "renamed", "exchanged"])
    engine = "SELECT engine_full FROM system.tables WHERE database = 'detached' AND name = 'altered'"
    assert "old_parts_lifetime = 9" in first.value(engine)
    altered = f"SELECT count() FROM detached.altered WHERE id < {FIRST_WRITTEN_ID}"
    assert [host.value(altered) for host in cluster.hosts] == [str(ROWS)] * 2
    assert [host.value("SELECT count() FROM detached.recreated") for host in cluster.hosts] == ["0", "0"]


def remedy(problem: dict) -> str:
    """The statement that a problem of a table under another name gives."""
    return problem["said"].removeprefix("on this host: ").partition(";")[0]


def test_while_cleaned(cluster):
    """Somebody attaches tables without metadata, and renames them: that works while they are read-only."""
    case = Case(cluster, "cleaned", ["attached", "renamed", "exchanged", "same"])
    case.start("--until", "restarted")
    first = cluster.host(FIRST)
    for table in ("attached", "renamed", "exchanged"):
        first.query(f"ATTACH TABLE cleaned.{table}")
    first.query("RENAME TABLE cleaned.renamed TO cleaned.renamed_to")
    first.query("CREATE TABLE cleaned.decoy (id UInt64) ENGINE = Memory")
    first.query("EXCHANGE TABLES cleaned.exchanged AND cleaned.decoy")
    case.start(code=PROBLEMS)
    problems = case.problems()
    for table, problem in problems.items():
        print(table, case.statuses()[table], problem)
    assert problems.keys() == {"renamed", "exchanged"}
    for problem in problems.values():
        assert problem["code"] == "TABLE_CHANGED"
        first.query(remedy(problem))
    case.retry_finishes(list(case.made))


def test_between_restore_and_account(cluster):
    """Renamed on the reference while RESTORE runs: under its name again it is accounted for."""
    case, host = Case(cluster, "restored", ["renamed"]), cluster.host(FIRST)
    seen = len(host.query_log("held"))
    host.set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*restored", "wait": True, "after": True})
    following = cluster.rekeeper.background("start", "restored", "--yes", output=cluster.directory / "restored.out")
    try:
        wait_for(lambda: host.query_log("held")[seen:], lambda: f"{cluster.rekeeper('status', 'restored')}", timeout=60)
        host.query("RENAME TABLE restored.renamed TO restored.other")
        host.clear_faults()
        assert following.wait(timeout=120) == PROBLEMS
    finally:
        host.clear_faults()
        following.terminate()
        following.wait()
    problem = case.problems()["renamed"]
    print(problem)
    assert problem["code"] == "TABLE_CHANGED"
    host.query(remedy(problem))
    case.retry_finishes(["renamed"])
