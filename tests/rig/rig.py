#!/usr/bin/env python3
"""The test rig: a whole ClickHouse cluster with ZooKeeper and Rekeeper's programs in one temporary directory.

    rig.py zookeeper --owner-pid PID    one ZooKeeper on a free port: prints `ready PORT`, ends when standard input is
                                        closed or the process PID is gone, leaves nothing behind
    rig.py restart HOSTDIR              the agents' restart command: stops the host that lives there and starts it

Tests and the demo use it as a library.
"""

import argparse
import concurrent.futures
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import proof
import switch_root
from hosts import HOST_FILE, Host, end_process, start_process
from pki import Pki
from processes import when_owner_is_gone
from programs import Agent, Coordinator, Rekeeper
from zookeeper_proxy import ZooKeeperProxy
from zookeeper_server import ZooKeeper


class Cluster:
    """Shards times replicas of ClickHouse hosts on one ZooKeeper; a context manager that leaves nothing running.

    With REKEEPER_RIG_KEEP in the environment its directory, with all logs, stays.
    """

    def __init__(self, shards: int = 1, replicas: int = 2, root: str = "", **host_options):
        self.directory = Path(tempfile.mkdtemp(prefix="rekeeper-rig-"))
        self.zookeeper = ZooKeeper(self.directory / "zookeeper")
        self.root = root
        self.hosts = [
            Host(
                self.directory / f"ch-{shard:02}-{replica}",
                name=f"ch-{shard:02}-{replica}",
                shard=f"{shard:02}",
                replica=f"r{replica}",
                zookeeper=self.zookeeper,
                root=root,
                **host_options,
            )
            for shard in range(1, shards + 1)
            for replica in range(1, replicas + 1)
        ]
        proof.describe(self.directory, self.zookeeper.address, self.hosts)
        self.coordinator: Coordinator | None = None
        self.agents: dict[str, Agent] = {}
        self.rekeeper: Rekeeper | None = None

    def __enter__(self) -> "Cluster":
        try:
            self.zookeeper.start()
            if self.root:
                self.create_root(self.root)
            self.on_all_hosts(Host.start)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything and remove the directory. What is left is crashed: nobody needs its data any more."""
        for program in [*self.agents.values(), *([self.coordinator] if self.coordinator else [])]:
            program.kill()
        for host in self.hosts:
            host.close()
        self.zookeeper.kill()
        if "REKEEPER_RIG_KEEP" in os.environ:
            print(f"kept: {self.directory}", file=sys.stderr)
        else:
            shutil.rmtree(self.directory)

    def start_rekeeper(
        self, proxy: ZooKeeperProxy | None = None, tls: bool = False, password: str = ""
    ) -> Rekeeper:
        """Start the coordinator and an agent for each host, and wait until all are connected.

        With a proxy all agents reach ZooKeeper through it, with its password; the hosts themselves do not. With TLS the
        files are those of docs/tls.md.
        """
        pki = Pki(self.directory / "pki") if tls else None
        self.coordinator = Coordinator(self.directory / "coordinator", pki)
        self.coordinator.start()
        self.rekeeper = Rekeeper(self.coordinator)
        for host in self.hosts:
            agent = Agent(self.directory / f"agent-{host.name}", host, self.coordinator)
            if proxy:
                agent.use_zookeeper(proxy.port, password)
            self.agents[host.name] = agent
            agent.start()
        self.rekeeper.wait_for_agents(*self.agents)
        return self.rekeeper

    def host(self, name: str) -> Host:
        """The host with this name, such as `ch-01-1`."""
        return next(host for host in self.hosts if host.name == name)

    def shards(self) -> list[list[Host]]:
        """The hosts of each shard."""
        names = sorted({host.shard for host in self.hosts})
        return [[host for host in self.hosts if host.shard == name] for name in names]

    def on_all_hosts(self, action) -> list:
        """Call `action(host)` for all hosts at the same time, and return what it gave, in their order."""
        with concurrent.futures.ThreadPoolExecutor(len(self.hosts)) as pool:
            return list(pool.map(action, self.hosts))

    def query_all(self, sql: str) -> None:
        """Execute a statement on every host."""
        self.on_all_hosts(lambda host: host.query(sql))

    def create_root(self, root: str) -> None:
        """Make a ZooKeeper root; a host does not make its own."""
        with self.zookeeper.client() as client:
            client.ensure_path(root)

    def order_root_switch(self, root: str) -> None:
        """Let the agents' hook move every host to another root at its next restart by the agent."""
        self.create_root(root)
        for host in self.hosts:
            (host.directory / switch_root.ORDER).write_text(root)


def _restart(directory: Path) -> None:
    owner = json.loads((directory / HOST_FILE).read_text())["owner"]
    end_process(directory, signal.SIGTERM)
    start_process(directory, owner)


def _zookeeper(owner: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="rekeeper-rig-"))
    server = ZooKeeper(directory / "zookeeper")
    try:
        server.start()
        print(f"ready {server.port}", flush=True)
        when_owner_is_gone(owner, lambda: os.kill(os.getpid(), signal.SIGTERM))
        sys.stdin.read()
    finally:
        server.kill()
        shutil.rmtree(directory)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    zookeeper = commands.add_parser("zookeeper")
    zookeeper.add_argument("--owner-pid", type=int, required=True)
    restart = commands.add_parser("restart")
    restart.add_argument("directory", type=Path)
    args = parser.parse_args()
    if args.command == "restart":
        return _restart(args.directory)
    # An ordinary end, so that what was started is stopped and the directory goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    return _zookeeper(args.owner_pid)


if __name__ == "__main__":
    main()
