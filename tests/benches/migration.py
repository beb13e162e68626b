#!/usr/bin/env python3
"""A whole migration beside the floor: the same tables, on the same machine, in the same run.

    migration.py [N...] [--rounds R] [--statements]     N tables of 4 parts on one host; by default 100 and 500

Each round has a cluster for the floor (floor.py) and one for Rekeeper, in turns one or the other first, because others
may use the machine as well. Of the rounds the best counts. A migration is timed from `rekeeper start` to its end. The
programs are those of the release build (`cargo build --release --workspace --bins --locked`) or of REKEEPER_BIN.
"""

import argparse
import collections
import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import floor
from floor import Cluster
from programs import DONE, binary

BEFORE, RESTART, AFTER = "detach, clean", "restart", "attach, restore"


def cpu(*programs) -> dict[str, float]:
    """CPU seconds of programs since their latest start: others may use the machine, and this they do not change."""
    seconds = {}
    for name, pid in programs:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds[f"CPU {name}"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def run_floor(count: int) -> dict[str, float]:
    """Seconds of the floor by phase, as far as the two can be compared: a migration does not keep them apart."""
    with Cluster(shards=1, replicas=1) as cluster:
        floor.make(cluster, count)
        before = cpu(("ZooKeeper", cluster.zookeeper.pid))
        seconds = floor.run(cluster, count)
        used = cpu(("ZooKeeper", cluster.zookeeper.pid), ("host", cluster.hosts[0].pid))
        used["CPU ZooKeeper"] -= before["CPU ZooKeeper"]
    return used | {
        BEFORE: seconds["detach"] + seconds["clean"],
        RESTART: seconds["restart"],
        AFTER: seconds["attach"] + seconds["restore"],
        "whole": sum(seconds[phase] for phase in floor.PHASES),
    }


def run_migration(count: int, show_statements: bool) -> dict[str, float]:
    """Seconds of a migration by phase, and of the plan, which are not part of the whole."""
    with Cluster(shards=1, replicas=1) as cluster:
        floor.make(cluster, count)
        rekeeper, (host,) = cluster.start_rekeeper(), cluster.hosts
        began = time.monotonic()
        rekeeper("plan", "bench").expect(DONE)
        planned = time.monotonic() - began
        before = cpu(("ZooKeeper", cluster.zookeeper.pid))
        seen, began_at, began = len(host.query_log("end")), time.time(), time.monotonic()
        rekeeper("start", "bench", "--yes", timeout=3600).expect(DONE)
        whole = time.monotonic() - began
        if (state := rekeeper.status("bench")["state"]) != "COMPLETED":
            raise AssertionError(f"the migration is {state}")
        programs = cluster.coordinator, cluster.agents[host.name]
        used = cpu(
            ("ZooKeeper", cluster.zookeeper.pid),
            ("host", host.pid),
            *((program.program.removeprefix("rekeeper-"), program.pid) for program in programs),
        )
        used["CPU ZooKeeper"] -= before["CPU ZooKeeper"]
        floor.check(host, count)
        if show_statements:
            print_statements(host.query_log("end")[seen:], count)
        events = rekeeper.events("bench")
        if show_statements:
            print_steps(events)
        memory = [program.peak_memory() for program in programs]
    times = [(datetime.fromisoformat(event["time"]).timestamp(), event) for event in events]
    first = min(at for at, event in times if event["kind"] == "intent")
    last = max(at for at, event in times if event["kind"] == "done")
    restarts = [at for at, event in times if event.get("step") == "restart"]
    return used | {
        "plan": planned,
        "checks": first - began_at,
        BEFORE: min(restarts) - first,
        RESTART: max(restarts) - min(restarts),
        AFTER: last - max(restarts),
        "whole": whole,
        "coordinator MiB": memory[0] / 2**20,
        "agent MiB": memory[1] / 2**20,
    }


def print_steps(events: list[dict]) -> None:
    """From when to when each step was under way, how long one took on average, and how many were so at a time."""
    at = {event["seq"]: datetime.fromisoformat(event["time"]).timestamp() for event in events}
    ordered = {event["attempt"]: event for event in events if event["kind"] == "intent"}
    took: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for event in events:
        if event["kind"] == "done":
            took[event["step"]].append((at[ordered[event["attempt"]]["seq"]], at[event["seq"]]))
    zero = min(at[event["seq"]] for event in ordered.values())
    for step, spans in took.items():
        first, last = min(begin for begin, _ in spans) - zero, max(end for _, end in spans) - zero
        busy = sum(end - begin for begin, end in spans)
        print(
            f"  {step:10} from {first:6.2f} to {last:6.2f} s, {1000 * busy / len(spans):8.1f} ms each,"
            f" {busy / max(last - first, 0.001):5.1f} at a time"
        )


def print_statements(ended: list[dict], count: int) -> None:
    """What was sent, per table, and how long the host had it."""
    kinds: dict[str, list[float]] = collections.defaultdict(list)
    for record in ended:
        kinds[kind(record["sql"])].append(record["took"])
    print(f"  {'statements':46} per table      ms each   s in all")
    for name, took in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        print(f"  {name:46} {len(took) / count:9.2f} {1000 * sum(took) / len(took):12.2f} {sum(took):10.2f}")
    total = [seconds for took in kinds.values() for seconds in took]
    each = 1000 * sum(total) / len(total)
    print(f"  {'all':46} {len(total) / count:9.2f} {each:12.2f} {sum(total):10.2f}", flush=True)


def kind(sql: str) -> str:
    """The words by which statements are told apart."""
    if table := re.search(r"\bFROM (system\.\w+)", sql):
        columns = sql.partition("SELECT ")[2].removeprefix("database, ").partition(" FROM")[0]
        return f"SELECT {columns[:24]} FROM {table[1].removeprefix('system.')}"
    return " ".join(re.sub(r"`.*", "", sql).split()[:4])


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The round that took the least time."""
    return min(rounds, key=lambda seconds: seconds["whole"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=int, nargs="*", default=[100, 500], metavar="N")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--statements", action="store_true", help="what the agent sends, and how long it takes")
    args = parser.parse_args()
    print(f"programs: {binary('rekeeper-agent').parent}", flush=True)
    phases = ["whole", BEFORE, RESTART, AFTER]
    for count in args.tables:
        floors, migrations = [], []
        for number in range(args.rounds):
            turns = [lambda: floors.append(run_floor(count))]
            turns.append(lambda: migrations.append(run_migration(count, args.statements)))
            for turn in turns if number % 2 == 0 else reversed(turns):
                turn()
            ratio = migrations[-1]["whole"] / floors[-1]["whole"]
            print(f"N = {count}, round {number + 1}: ratio {ratio:.2f}", flush=True)
        bare, whole = best(floors), best(migrations)
        print(f"N = {count}")
        print(f"  {'seconds':18}" + "".join(f"{phase:>17}" for phase in phases))
        for name, seconds in ("floor", bare), ("Rekeeper", whole):
            print(f"  {name:18}" + "".join(f"{seconds[phase]:17.2f}" for phase in phases))
        print(f"  {'ratio':18}" + "".join(f"{whole[phase] / bare[phase]:17.2f}" for phase in phases))
        for name, seconds in ("floor", bare), ("Rekeeper", whole):
            used = [f"{key[4:]} {value:.2f}" for key, value in seconds.items() if key.startswith("CPU ")]
            print(f"  CPU s, {name}: {', '.join(used)} (of the host: since its restart)")
        print(f"  plan {whole['plan']:.2f} s, checks of the start {whole['checks']:.2f} s (in the whole),", end="")
        print(f" coordinator {whole['coordinator MiB']:.0f} MiB, agent {whole['agent MiB']:.0f} MiB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
