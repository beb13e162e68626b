"""Migrates a whole cluster on this machine while clients write into it, and proves after each time that all is there.

ZooKeeper, 2 shards of 2 ClickHouse servers, a coordinator and 4 agents, all real. REKEEPER_ENGINE is the version of
ClickHouse: 24.8, 25.8 (unless it is given), 26.3 or 26.9 (tests/rig/README.md). The first migration is the whole
workflow; the second shows that it can be repeated, the third does it without restarting ClickHouse, the fourth moves
the cluster to another root of the ensemble by a hook of the agents. Ends with 0 when everything held.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "rig"))

import tables  # noqa: E402
from proof import Proof, report  # noqa: E402
from rig import Cluster  # noqa: E402
from writer import Ledger, Writer  # noqa: E402

OLD_ROOT, NEW_ROOT = "/before", "/after"
ENGINE = os.environ.get("REKEEPER_ENGINE") or "25.8"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=len(tables.KINDS), metavar="N", help="tables of a shard")
    parser.add_argument("--tls", action="store_true", help="with TLS, by the certificates of docs/tls.md")
    parser.add_argument("--quick", action="store_true", help="only the first migration")
    parser.add_argument("--keep", action="store_true", help="leave it running in the end, until Ctrl-C")
    args = parser.parse_args()
    # An ordinary end, in which everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say("Starting ZooKeeper and 2 shards of 2 ClickHouse hosts")
    with Cluster(shards=2, replicas=2, root=OLD_ROOT, engine=ENGINE) as cluster:
        demo = Demo(cluster, tables.some(args.tables), args.tls)
        passed = demo.migrate("m1", "Detach, clean, restart, restore: a whole migration")
        if not args.quick:
            passed &= demo.migrate("m2", "The same once more")
            passed &= demo.migrate("m3", "Without restarting ClickHouse", "--restart", "never")
            cluster.order_root_switch(NEW_ROOT)
            passed &= demo.migrate("m4", f"To another root, from {OLD_ROOT} to {NEW_ROOT}", old_root=OLD_ROOT)
        demo.show_memory()
        say("Everything is there" if passed else "SOMETHING IS MISSING, see above")
        if args.keep:
            demo.keep()
        return 0 if passed else 1


class Demo:
    """One cluster with its tables, writers and Rekeeper."""

    def __init__(self, cluster: Cluster, made: list[tables.Table], tls: bool):
        self.cluster = cluster
        say(f"Filling {len(made)} tables on each shard")
        tables.create(cluster.shards(), made)
        self.written = [(table.database, table.name) for table in tables.WRITTEN if table in made]
        self.ledger = Ledger(cluster.directory / "ledger.jsonl")
        self.proof = Proof(cluster.directory)
        say("Starting the coordinator and an agent on each host" + (", with TLS" if tls else ""))
        self.rekeeper = cluster.start_rekeeper(tls=tls)
        self.run("hosts")

    def migrate(self, name: str, what: str, *options: str, old_root: str | None = None) -> bool:
        """One migration from the plan to the proof, clients writing all the way through."""
        say(what)
        before = self.proof.record()
        with Writer(self.cluster.shards(), self.written, self.ledger) as writer:
            # The writes go on before, during and after the migration.
            writer.wait_for_inserts(10)
            done = self.run("plan", name, *options) == 0 and self.run("start", name, "--yes") == 0
            self.run("status", name)
            writer.wait_for_inserts(10)
        if not done:
            self.run("problems", name)
        print(f"\nclients: {writer.acknowledged} inserts acknowledged, {writer.refused} attempts refused and retried\n")
        return report(self.proof.check(before, self.ledger, old_root)) and done

    def run(self, *arguments: str) -> int:
        """Show a command and its output."""
        print(f"\n$ rekeeper {' '.join(arguments)}", flush=True)
        return self.rekeeper.shown(*arguments)

    def show_memory(self) -> None:
        """The peak memory of each program."""
        say("Peak memory since the latest start, MiB")
        cluster = self.cluster
        print(f"{'coordinator':12} {cluster.coordinator.peak_memory() / 2**20:6.0f}")
        for host in cluster.hosts:
            agent = cluster.agents[host.name].peak_memory() / 2**20
            print(f"{'agent':12} {agent:6.0f}   ClickHouse {host.peak_memory() / 2**20:6.0f}   {host.name}")
        print(f"{'ZooKeeper':12} {cluster.zookeeper.peak_memory() / 2**20:6.0f}")

    def keep(self) -> None:
        """Leave it to be looked at."""
        say(f"Running until Ctrl-C; files and logs in {self.cluster.directory}")
        for variable in ("COORDINATOR", "CA", "CERT", "KEY"):
            if value := self.rekeeper.environment.get(f"REKEEPER_{variable}"):
                print(f"export REKEEPER_{variable}={value}")
        for host in self.cluster.hosts:
            print(f"{host.name}  {host.url}")
        print(f"ZooKeeper {self.cluster.zookeeper.address}", flush=True)
        signal.pause()


def say(text: str) -> None:
    """A headline."""
    print(f"\n=== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
