"""A hook that ends badly, or does not end, holds its host: nothing is restarted there before somebody has mended it."""

import sys

import pytest
import tables
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

# What it prints and how it ends; it notes what it was told.
HOOK = """
import os, sys, time
with open({notes!r}, "a") as notes:
    print(*(os.environ["REKEEPER_" + name] for name in ("MIGRATION", "HOST", "ATTEMPT")), file=notes)
print("no such cluster", file=sys.stderr)
{end}
"""


@pytest.mark.parametrize(
    ("end", "says"), [("sys.exit(3)", "exit status: 3: no such cluster"), ("time.sleep(60)", "did not end within 2s")]
)
def test_hook_that_fails(tmp_path, end, says):
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), [Table("shop", "orders")])
        rekeeper, (first, other) = cluster.start_rekeeper(), cluster.hosts
        hook, notes, agent = tmp_path / "hook.py", tmp_path / "notes", cluster.agents[first.name]
        hook.write_text(HOOK.format(notes=str(notes), end=end))
        hooks = {"before_restart": [sys.executable, str(hook)], "timeout": "2s"}
        agent.configure(agent.configuration | {"hooks": hooks})
        agent.restart()
        rekeeper.wait_for_agents(*cluster.agents)
        proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        before, server = proof.record(), first.pid
        rekeeper("plan", "m1").expect(DONE)
        rekeeper("start", "m1", "--yes").expect(PROBLEMS)
        status = rekeeper.status("m1")
        assert (status["state"], status["counts"]["ZK_CLEANED"], status["counts"]["RESTORED"]) == ("FAILED", 2, 0)
        problems = {table["host"]: table["problem"] for table in status["tables"] if table["problem"]}
        assert {host: problem["code"] for host, problem in problems.items()} == {first.name: "HOOK_FAILED"}
        assert says in problems[first.name]["message"] and str(hook) in problems[first.name]["message"]
        # Held: the server is the same; and it was tried once, since a hook is no matter of patience.
        assert first.pid == server
        (told,) = notes.read_text().splitlines()
        assert told.split()[:2] == ["m1", first.name]

        hook.write_text(HOOK.format(notes=str(notes), end=""))
        rekeeper("retry", "m1").expect(DONE)
        rekeeper.wait_for_state("m1", "COMPLETED")
        assert first.pid != server
        attempts = [int(line.split()[2]) for line in notes.read_text().splitlines()]
        assert len(attempts) == 2 and attempts[0] < attempts[1]
        assert report(proof.check(before, ledger))
        assert other.is_running
