"""Restores that are cut: the server dies at one of its own renames, and what Rekeeper makes of it.

RESTORE moves the parts to `detached/`, makes the nodes, and takes them back one by one: `<part>` becomes
`attaching_<part>`, and that becomes a part of the table, which is registered then.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes import wait_for
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from system_calls import EndAtRename
from writer import Ledger

PARTS, ROWS = 5, 10
ALL = PARTS * ROWS
BOTH = ("agent", "coordinator")
NO_MERGES = "SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"
RESTORE, ATTACH_PART = "^SYSTEM RESTORE REPLICA", "ATTACH PART"


def part(number: int) -> str:
    """The name of a part, before RESTORE and after it."""
    return f"all_{number}_{number}_0"


@dataclass(frozen=True)
class Place:
    """Where the server is killed: at which rename, and what lies in `detached/` then, if that is certain."""

    rename: str
    detached: tuple[str, ...] | None = None
    # Whether the rename is done when it is killed.
    done: bool = False
    # What else is killed at the same moment; and the rename at which the agent is, when it mends what is left.
    others: tuple[str, ...] = ()
    mending: str = ""
    # Whether the server may mend what is left by itself: it does where most parts are registered, which is not certain.
    heals: bool = False
    # Bare statements: rows in the end, and once every folder of `detached/` is attached that can be.
    short: int = ALL
    attached: int = ALL


BEHIND = tuple(part(number) for number in range(PARTS))
# The places of the reference's restore.
REFERENCE = {
    "before": Place(f"{part(0)}/", ()),
    "moving": Place(f"{part(2)}/", BEHIND[:2], mending=f"detached/{part(1)}", short=30),
    "moved": Place(f"detached/{part(0)}", BEHIND, others=("coordinator",), short=0),
    "attaching-first": Place(
        f"detached/attaching_{part(0)}/",
        (*BEHIND[1:], f"attaching_{part(0)}"),
        mending=f"detached/attaching_{part(0)}",
        short=0,
        attached=40,
    ),
    # Most of what is on the disk is not registered: the server refuses the replica (code 231).
    "first-not-registered": Place(
        f"detached/attaching_{part(0)}/", BEHIND[1:], done=True, mending=part(0), short=0, attached=0
    ),
    "between": Place(f"detached/{part(2)}", BEHIND[2:], others=BOTH, short=20),
    "attaching": Place(
        f"detached/attaching_{part(2)}/",
        (*BEHIND[3:], f"attaching_{part(2)}"),
        others=("agent",),
        short=20,
        attached=40,
    ),
    "not-registered": Place(
        f"detached/attaching_{part(2)}/", BEHIND[3:], done=True, others=BOTH, short=20, attached=40
    ),
}


def created(
    hosts: list, name: str, parts: int = PARTS, engine: str = "ReplicatedMergeTree", equal: bool = False
) -> str:
    """A table of parts that are not merged, the same on all hosts; with other rows in each part, or equal ones."""
    table = f"d.{name}"
    for host in hosts:
        host.query(
            f"CREATE TABLE {table} (id UInt64) ENGINE = {engine}('/tables/01/d/{name}', '{{replica}}')"
            f" ORDER BY id {NO_MERGES}"
        )
    for number in range(parts):
        rows = f"SELECT number + {0 if equal else number * ROWS} FROM numbers({ROWS})"
        hosts[0].query(f"INSERT INTO {table} SETTINGS insert_deduplicate = {int(not equal)} {rows}")
    for host in hosts:
        host.query(f"SYSTEM SYNC REPLICA {table} LIGHTWEIGHT")
    return table


def folder(host, table: str) -> Path:
    """Where the server keeps a table."""
    of = f"concat(database, '.', name) = '{table}'"
    return Path(host.value(f"SELECT data_paths[1] FROM system.tables WHERE {of}"))


def state(host, table: str) -> tuple[int, str]:
    """Whether it is read-only, and why."""
    ((readonly, why),) = host.query(f"SELECT is_readonly, zookeeper_exception FROM system.replicas WHERE {_of(table)}")
    return int(readonly), why


def _of(table: str) -> str:
    return f"concat(database, '.', table) = '{table}'"


@contextlib.contextmanager
def killed(cluster: Cluster, host, table: str, place: Place, meanwhile: Callable[[], None] = lambda: None):
    """What is done within makes the server come to the place, where it dies, and the other programs with it; all of
    them are started again, as systemd would, after what is done meanwhile. Where the agent mends what is left, it is
    killed, too."""
    programs = [cluster.coordinator if other == "coordinator" else cluster.agents[host.name] for other in place.others]
    path = folder(host, table)
    with dying(cluster, host, f"{path}/{place.rename}", place.done):
        yield
    for program in programs:
        program.kill()
    there = sorted(os.listdir(path / "detached"))
    assert place.detached is None or there == sorted(place.detached), f"it was killed somewhere else: {there}"
    meanwhile()
    for program in programs:
        program.start()
    if not place.mending:
        return host.start()
    agent = cluster.agents[host.name]
    with dying(cluster, agent, f"{path}/{place.mending}", unless=lambda: place.heals and is_completed(cluster, table)):
        host.start()
    if not agent.is_running:
        agent.start()


def name_of(table: str) -> str:
    """What the migration of a table is called."""
    return table.removeprefix("d.").replace("_", "-")


def is_completed(cluster: Cluster, table: str) -> bool:
    """Whether its migration is."""
    return cluster.rekeeper.status(name_of(table))["state"] == "COMPLETED"


@contextlib.contextmanager
def dying(cluster: Cluster, program, path: str, done: bool = False, unless: Callable[[], bool] = lambda: False):
    """What is done within makes a program rename `path`: it is killed then, `unless` it never comes to that."""
    end = EndAtRename(getattr(program, "engine_pid", program.pid), path, cluster.directory, done)
    try:
        yield
        end.wait(unless)
        wait_for(lambda: not program.is_running or unless(), "the program to end")
    finally:
        end.close()


class Migration:
    """One that stands where the server of a host holds a statement; what is done within lets it go on."""

    def __init__(self, cluster: Cluster, table: str, host, pattern: str):
        self.cluster, self.table, self.host, self.pattern = cluster, table, host, pattern
        self.name = name_of(table)

    def __enter__(self):
        rekeeper = self.cluster.rekeeper
        self.proof, self.ledger = Proof(self.cluster.directory), Ledger(self.cluster.directory / f"{self.name}.jsonl")
        self.before = self.proof.record()
        rekeeper("plan", self.name, "--table", self.table, "--restart", "never").expect(DONE)
        self.hold(self.pattern)
        out = self.cluster.directory / f"{self.name}.out"
        self.following = rekeeper.background("start", self.name, "--yes", output=out)
        assert self.until_held(), rekeeper("status", self.name)
        return self

    def hold(self, pattern: str, after: bool = False) -> None:
        """Have the server hold statements from now on, `after` it has executed them, and let go what it holds."""
        self.held_before = len(self.host.query_log("held"))
        self.host.set_faults({"pattern": pattern, "wait": True, "after": after})

    def until_held(self) -> bool:
        """Until it holds one, or nothing goes on any more; whether it holds one."""

        def status() -> str:
            return str(self.cluster.rekeeper("status", self.name))

        def held() -> list:
            return self.host.query_log("held")[self.held_before :]

        wait_for(lambda: held() or self.following.poll() is not None, status, timeout=60)
        return bool(held())

    def __exit__(self, *failure) -> None:
        self.host.clear_faults()
        if failure[0]:
            self.following.terminate()
        self.code = self.following.wait(timeout=150)

    def failed_with(self, code: str) -> dict:
        """The one problem that there is."""
        status = self.cluster.rekeeper.status(self.name)
        (found,) = [table for table in status["tables"] if table["problem"]]
        print(found["problem"])
        assert (self.code, status["state"], found["problem"]["code"]) == (PROBLEMS, "FAILED", code)
        return found["problem"]

    def retry(self) -> None:
        """Go on, to the end."""
        self.cluster.rekeeper("retry", self.name).expect(DONE)
        status = self.cluster.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED", timeout=150)
        self.code = DONE if status["state"] == "COMPLETED" else PROBLEMS

    def completed(self) -> None:
        """With every row of it on both replicas, once."""
        status = self.cluster.rekeeper.status(self.name)
        problems = [table["problem"] for table in status["tables"] if table["problem"]]
        assert (self.code, status["state"], problems) == (DONE, "COMPLETED", []), problems
        assert report(self.proof.check(self.before, self.ledger))
        # Such a folder would stop the next RESTORE.
        names = f"SELECT name FROM system.detached_parts WHERE {_of(self.table)} AND startsWith(name, 'attaching_')"
        assert [host.query(names) for host in self.cluster.hosts] == [[], []]
        self.cluster.query_all(f"DROP TABLE {self.table} SYNC")
