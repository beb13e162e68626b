#!/usr/bin/env python3
"""The memory of a coordinator with a large migration.

    memory.py [HOSTS TABLES PARTS] [--limit MIB]     by default 10 hosts of 1,000 tables of 100 parts, 256 MiB

The coordinator and the command line are the real ones; the agents (coordinator/examples/synthetic_agents.rs) speak the
real protocol for hosts that do not exist and do every step at once. Plans, migrates, and asks for status and report;
prints the most memory that the coordinator has had resident after each (VmHWM), and ends with 1 above the limit. Needs
`cargo build --release --locked --workspace --bins` and `cargo build --locked -p rekeeper-coordinator --examples`.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "rig"))

from processes import end, spawn_bound, wait_for  # noqa: E402
from programs import DONE, REPOSITORY, Coordinator, Rekeeper, binary  # noqa: E402


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=int, nargs="*", default=[10, 1000, 100], metavar="N")
    parser.add_argument("--limit", type=int, default=256, metavar="MIB")
    args = parser.parse_args()
    hosts, tables, parts = args.size
    print(f"programs: {binary('rekeeper-coordinator').parent}")
    print(f"{hosts * tables:,} table replicas, {hosts * tables * parts:,} parts", flush=True)
    with tempfile.TemporaryDirectory(prefix="rekeeper-memory-") as scratch:
        directory = Path(scratch)
        coordinator = Coordinator(directory / "coordinator")
        coordinator.start()
        rekeeper = Rekeeper(coordinator)
        wait_for(lambda: rekeeper("hosts").code == DONE, "the coordinator")
        program = REPOSITORY / "target" / "debug" / "examples" / "synthetic_agents"
        agents = spawn_bound([program, coordinator.url, hosts, tables, parts], directory / "agents.log")
        try:
            names = [f"ch-01-{number:02}" for number in range(1, hosts + 1)]
            rekeeper.wait_for_agents(*names)

            def step(what: str, *command: str) -> None:
                began = time.monotonic()
                rekeeper(*command, timeout=3600).expect(DONE)
                took, memory = time.monotonic() - began, coordinator.peak_memory() / 2**20
                print(f"  {what:24} {took:8.1f} s   VmHWM {memory:6.0f} MiB", flush=True)

            step("plan", "plan", "large")
            step("migration", "start", "large", "--yes")
            step("status", "status", "large", "-o", "json")
            step("report", "report", "large", "-o", "json")
            step("events", "events", "large", "-o", "json")
            status = rekeeper.status("large")
            if status["state"] != "COMPLETED" or status["counts"]["RESTORED"] != hosts * tables:
                raise AssertionError(f"{status['state']}, {status['counts']}")
            memory = coordinator.peak_memory()
            coordinator.restart()
            wait_for(lambda: rekeeper("hosts").code == DONE, "the coordinator", timeout=300)
            step("status after a restart", "status", "large", "-o", "json")
        finally:
            end(agents.pid, signal.SIGKILL)
            agents.wait()
            coordinator.kill()
    if memory > args.limit << 20:
        print(f"more than {args.limit} MiB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
