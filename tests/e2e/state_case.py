"""A migration whose agent on the first host loses files of its state folder, or finds them damaged, in the middle."""

import contextlib
import shutil
from pathlib import Path

import tables
from processes import wait_for
from programs import DONE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

FIRST, SECOND = "ch-01-1", "ch-01-2"
ROWS = 60


def lose(file: Path) -> None:
    """A file, or a folder with all that is in it."""
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def cut_off(file: Path) -> None:
    """Half of it is left."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def alter(file: Path) -> None:
    """One bit of one byte, about the middle of the file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


HARM = {"lost": lose, "cut": cut_off, "altered": alter}


def without_faults(cluster: Cluster) -> None:
    """A case that failed leaves nothing held, and no agent away."""
    for host in cluster.hosts:
        host.clear_faults()
    for agent in cluster.agents.values():
        if not agent.is_running:
            agent.start()


class Case:
    """A migration of tables with six parts each in a database of their own."""

    def __init__(self, cluster: Cluster, name: str, names: list[str], restart: str = "never"):
        self.cluster, self.name, self.names = cluster, name, names
        made = [Table(name, table, settings=tables.NEVER_MERGES, rows=ROWS, inserts=6) for table in names]
        tables.create(cluster.shards(), made)
        self.proof = Proof(cluster.directory)
        record = self.proof.record()
        self.before = record | {"replicas": [r for r in record["replicas"] if r["database"] == name]}
        self.uuids = {r["table"]: r["uuid"] for r in self.before["replicas"] if r["host"] == FIRST}
        cluster.rekeeper("plan", name, "--database", name, "--restart", restart).expect(DONE)

    @property
    def state(self) -> Path:
        """The state folder of the first host's agent."""
        return self.cluster.agents[FIRST].state

    @property
    def folder(self) -> Path:
        """The migration's folder in it."""
        return self.cluster.agents[FIRST].folder(self.name)

    def file(self, table: str, kind: str) -> Path:
        """A file of a table in that folder."""
        return self.folder / f"{self.uuids[table]}.{kind}"

    def start(self):
        """In the background."""
        output = self.cluster.directory / f"{self.name}.out"
        return self.cluster.rekeeper.background("start", self.name, "--yes", output=output)

    @contextlib.contextmanager
    def stopped_at(self, statement: str, after: bool, program=None):
        """A program dies when all tables stand at the statement on the first host, or that host's agent; it is started
        again afterwards."""
        host, program = self.cluster.host(FIRST), program or self.cluster.agents[FIRST]
        seen = len(host.query_log("held"))
        host.set_faults({"pattern": f"^{statement} .*{self.name}", "wait": True, "after": after})
        following = self.start()
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
        """Go on, to the end."""
        self.cluster.rekeeper("retry", self.name).expect(DONE)
        self.cluster.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED", timeout=120)

    def report(self) -> list[dict]:
        """Of every table replica."""
        return self.cluster.rekeeper("report", self.name, "-o", "json").expect(DONE).json["tables"]

    def is_whole(self) -> None:
        """Completed, every row is there on both replicas, and the report accounts for every part."""
        status = self.cluster.rekeeper.status(self.name)
        assert status["state"] == "COMPLETED", self.problems()
        ledger = Ledger(self.cluster.directory / f"{self.name}.jsonl")
        assert report(self.proof.check(self.before, ledger))
        for table in self.report():
            assert sum(table["fates"].values()) == len(table["parts"]) == 6 and "open" not in table["fates"], table
            assert sum(part["rows"] for part in table["parts"]) == ROWS
