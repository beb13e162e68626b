"""Files of an agent's state folder that are lost, cut off or altered in the middle of a migration: what can be made up for
is, what cannot is told with the file and the remedy, and no row is missing afterwards."""

import contextlib
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

FIRST, SECOND = "ch-01-1", "ch-01-2"
ROWS = 60


def lose(file: Path) -> None:
    file.unlink()


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def alter(file: Path) -> None:
    """One bit of one byte, about the middle of the file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


HARM = {"lost": lose, "cut": cut_off, "altered": alter}


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a database and a migration of its own."""
    with Cluster(shards=1, replicas=2) as made:
        made.start_rekeeper()
        yield made


@pytest.fixture(autouse=True)
def without_faults(cluster):
    """A case that failed leaves nothing held, and no agent away."""
    yield
    for host in cluster.hosts:
        host.clear_faults()
    for agent in cluster.agents.values():
        if not agent.is_running:
            agent.start()


class Case:
    """A migration of tables with six parts each in a database of their own."""

    def __init__(self, cluster: Cluster, name: str, names: list[str]):
        self.cluster, self.name, self.names = cluster, name, names
        made = [Table(name, table, settings=tables.NEVER_MERGES, rows=ROWS, inserts=6) for table in names]
        tables.create(cluster.shards(), made)
        self.proof = Proof(cluster.directory)
        record = self.proof.record()
        self.before = record | {"replicas": [r for r in record["replicas"] if r["database"] == name]}
        self.uuids = {r["table"]: r["uuid"] for r in self.before["replicas"] if r["host"] == FIRST}
        cluster.rekeeper("plan", name, "--database", name, "--restart", "never").expect(DONE)

    @property
    def state(self) -> Path:
        """The state folder of the first host's agent."""
        return self.cluster.agents[FIRST].directory / "state"

    def file(self, table: str, kind: str) -> Path:
        """A file of a table in that folder."""
        return self.state / self.name / f"{self.uuids[table]}.{kind}"

    @contextlib.contextmanager
    def stopped_at(self, statement: str, after: bool, program=None):
        """A program dies when all tables stand at the statement on the first host, or that host's agent; it is started
        again afterwards."""
        host, program = self.cluster.host(FIRST), program or self.cluster.agents[FIRST]
        seen = len(host.query_log("held"))
        host.set_faults({"pattern": f"^{statement} .*{self.name}", "wait": True, "after": after})
        output = self.cluster.directory / f"{self.name}.out"
        following = self.cluster.rekeeper.background("start", self.name, "--yes", output=output)
        try:
            wait_for(
                lambda: len(host.query_log("held")[seen:]) == len(self.names),
                lambda: f"{self.cluster.rekeeper('status', self.name)}",
                timeout=60,
            )
            program.kill()
            yield
            host.clear_faults()
            program.start()
            self.code = following.wait(timeout=120)
        finally:
            following.terminate()
            following.wait()

    def problems(self) -> dict[str, dict]:
        """Of the tables that have one."""
        found = self.cluster.rekeeper.status(self.name)["tables"]
        return {table["table"]: table["problem"] for table in found if table["problem"]}

    def retry(self) -> None:
        self.cluster.rekeeper("retry", self.name).expect(DONE)
        self.cluster.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED", timeout=120)

    def is_whole(self) -> None:
        """Completed, every row is there on both replicas, and the report accounts for every part."""
        status = self.cluster.rekeeper.status(self.name)
        assert status["state"] == "COMPLETED", self.problems()
        ledger = Ledger(self.cluster.directory / f"{self.name}.jsonl")
        assert report(self.proof.check(self.before, ledger))
        for table in self.cluster.rekeeper("report", self.name, "-o", "json").expect(DONE).json["tables"]:
            assert sum(table["fates"].values()) == len(table["parts"]) == 6 and "open" not in table["fates"], table
            assert sum(part["rows"] for part in table["parts"]) == ROWS


def test_list_of_known_tables(cluster):
    """Cut off: the agent does not start, and says which file it is and what to do; without one, a plan makes it anew."""
    Case(cluster, "known", ["t"])
    agent = cluster.agents[FIRST]
    file = agent.directory / "state" / "known-tables.json"
    agent.terminate()
    cut_off(file)
    agent.start()
    wait_for(lambda: not agent.is_running, "the agent to end")
    said = agent.log_tail()
    assert str(file) in said and "remove it" in said and "backup" in said, said
    file.unlink()
    agent.start()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)
    cluster.rekeeper("plan", "known_anew", "--database", "known", "--restart", "never").expect(DONE)
    cluster.rekeeper("start", "known_anew", "--yes").expect(DONE)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_manifest(cluster, after):
    """When RESTORE was sent: the coordinator's copy takes the place of the agent's."""
    case = Case(cluster, f"manifest_{'after' if after else 'before'}", list(HARM))
    written = {}
    with case.stopped_at("SYSTEM RESTORE REPLICA", after):
        for table, harm in HARM.items():
            written[table] = case.file(table, "manifest").read_bytes()
            harm(case.file(table, "manifest"))
    assert case.code == DONE, case.problems()
    for table, content in written.items():
        assert case.file(table, "manifest").read_bytes() == content
    case.is_whole()


def test_manifest_that_nobody_knows_of(cluster):
    """Written, and lost before the coordinator heard of it: nothing was restored, so it is made anew."""
    case = Case(cluster, "manifest_unknown", list(HARM))
    agent = cluster.agents[FIRST]
    with case.stopped_at("ATTACH TABLE", after=False, program=cluster.coordinator):
        # The agent goes on without anybody to tell.
        cluster.host(FIRST).clear_faults()
        files = [case.file(table, "manifest") for table in HARM]
        wait_for(lambda: all(file.exists() for file in files), "the manifests to be written", timeout=60)
        agent.kill()
        for file, harm in zip(files, HARM.values(), strict=True):
            harm(file)
        agent.start()
    assert case.code == DONE, case.problems()
    case.is_whole()
