"""A table of its own and a migration of the same name, for each case of a module."""

import contextlib
from dataclasses import dataclass, field

from processes import wait_for
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from writer import Ledger

FIRST, SECOND = "ch-01-1", "ch-01-2"


@dataclass
class OneTable:
    """`shop.NAME` on the two replicas of one shard, and what has to be the same of it afterwards."""

    cluster: Cluster
    name: str
    rows: int
    proof: Proof = field(init=False)
    before: dict = field(init=False)

    def __post_init__(self):
        self.proof = Proof(self.cluster.directory)
        record = self.proof.record()
        replicas = [replica for replica in record["replicas"] if replica["table"] == self.name]
        self.before = record | {"replicas": replicas}

    def plan(self):
        """The answer."""
        return self.cluster.rekeeper("plan", self.name, "--table", f"shop.{self.name}", "--restart", "never")

    def count(self, host: str = FIRST) -> int:
        """Rows on one host."""
        return int(self.cluster.host(host).value(f"SELECT count() FROM shop.{self.name}"))

    def counts(self) -> set[int]:
        """Rows on each host."""
        return {self.count(host.name) for host in self.cluster.hosts}

    def without_metadata(self) -> None:
        """By bare statements: detached, its nodes deleted, attached read-only."""
        self.cluster.query_all(f"DETACH TABLE IF EXISTS shop.{self.name} PERMANENTLY SYNC")
        with self.cluster.zookeeper.client() as client:
            client.delete(f"/tables/01/shop/{self.name}", recursive=True)
        self.cluster.query_all(f"ATTACH TABLE shop.{self.name}")
        exception = f"SELECT zookeeper_exception FROM system.replicas WHERE database = 'shop' AND table = '{self.name}'"
        for host in self.cluster.hosts:
            wait_for(lambda host=host: "No node" in host.value(exception), f"{self.name} to be without metadata")

    def restore_by_hand(self) -> None:
        """As the per-host script does, the first host first; and nobody complains."""
        for host in self.cluster.hosts:
            host.query(f"SYSTEM RESTORE REPLICA shop.{self.name}")
            host.query(f"SYSTEM SYNC REPLICA shop.{self.name}")
            assert host.value(f"SELECT is_readonly FROM system.replicas WHERE table = '{self.name}'") == "0"

    @contextlib.contextmanager
    def held(self, host: str, pattern: str):
        """What is done within comes when the statement was sent to the host, and before it is executed."""
        server = self.cluster.host(host)
        before = len(server.query_log("held"))
        server.set_faults({"pattern": pattern, "wait": True})
        output = self.cluster.directory / f"{self.name}.out"
        following = self.cluster.rekeeper.background("start", self.name, "--yes", output=output)
        try:
            wait_for(lambda: len(server.query_log("held")) > before, f"{pattern} to be sent", timeout=60)
            yield
            server.clear_faults()
            assert following.wait(timeout=120) == PROBLEMS
        finally:
            following.terminate()
            following.wait()

    def problem(self, code: str, part: str) -> dict:
        """The one problem that the migration has; it names the table and the part."""
        status = self.cluster.rekeeper.status(self.name)
        found = [table["problem"] for table in status["tables"] if table["problem"]]
        assert {problem["code"] for problem in found} == {code}
        print(found[0]["message"], "|", found[0]["fix"], "|", found[0]["said"])
        assert f"shop.{self.name}" in found[0]["message"] and part in found[0]["message"]
        return found[0]

    def retry_fails(self) -> None:
        """The cause is still there."""
        self.cluster.rekeeper("retry", self.name).expect(DONE)
        assert self.cluster.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED")["state"] == "FAILED"

    def retry_finishes(self) -> None:
        """Every row of the table is there once, on both replicas."""
        self.cluster.rekeeper("retry", self.name).expect(DONE)
        status = self.cluster.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED", timeout=120)
        assert status["state"] == "COMPLETED"
        self.is_whole()

    def is_whole(self) -> None:
        """Every row, and new metadata."""
        assert self.counts() == {self.rows}
        assert report(self.proof.check(self.before, Ledger(self.cluster.directory / f"{self.name}.jsonl")))
