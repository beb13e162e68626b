"""The server is killed in the middle of RESTORE, at its own renames: bare statements leave rows out, Rekeeper brings
every row back, once, on both replicas. Losses 2 and 8.

RESTORE moves the parts to `detached/`, makes the nodes, and takes them back one by one: `<part>` becomes
`attaching_<part>`, and that becomes a part of the table, which is registered then.
"""

import contextlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from clickhouse import StatementFailed
from processes import wait_for
from programs import DONE
from proof import Proof, report
from rig import Cluster
from system_calls import EndAtRename
from writer import Ledger

PARTS, ROWS = 5, 10
ALL = PARTS * ROWS
NO_MERGES = "SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"


def part(number: int) -> str:
    """The name of a part, before RESTORE and after it."""
    return f"all_{number}_{number}_0"


@dataclass(frozen=True)
class Place:
    """Where the server is killed: at which rename, what lies in `detached/` then, and what bare statements come to."""

    rename: str
    detached: tuple[str, ...]
    # Whether the rename is done when it is killed.
    done: bool = False
    # Rows in the end; and once every folder of `detached/` is attached that can be.
    short: int = 0
    attached: int = ALL
    # What else is killed at the same moment.
    others: tuple[str, ...] = ()


BOTH = ("agent", "coordinator")
BEHIND = tuple(part(number) for number in range(PARTS))
PLACES = {
    "before": Place(f"{part(0)}/", (), short=ALL),
    "moving": Place(f"{part(2)}/", BEHIND[:2], short=30, others=("agent",)),
    "moved": Place(f"detached/{part(0)}", BEHIND, short=0, others=("coordinator",)),
    "attaching-first": Place(
        f"detached/attaching_{part(0)}/", (*BEHIND[1:], f"attaching_{part(0)}"), short=0, attached=40
    ),
    # Most of what is on the disk is not registered: the server refuses the replica (code 231).
    "first-not-registered": Place(f"detached/attaching_{part(0)}/", BEHIND[1:], done=True, short=0, attached=0),
    "between": Place(f"detached/{part(2)}", BEHIND[2:], short=20, others=BOTH),
    "attaching": Place(
        f"detached/attaching_{part(2)}/", (*BEHIND[3:], f"attaching_{part(2)}"), short=20, attached=40, others=BOTH
    ),
    "not-registered": Place(f"detached/attaching_{part(2)}/", BEHIND[3:], done=True, short=20, attached=40),
}


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard, Rekeeper, and a database for all cases."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


def created(hosts: list, name: str) -> str:
    """A table of parts that are not merged, the same on all hosts."""
    table = f"d.{name}"
    for host in hosts:
        host.query(
            f"CREATE TABLE {table} (id UInt64) ENGINE = ReplicatedMergeTree('/tables/01/d/{name}', '{{replica}}')"
            f" ORDER BY id {NO_MERGES}"
        )
    for number in range(PARTS):
        hosts[0].query(f"INSERT INTO {table} SELECT number + {number * ROWS} FROM numbers({ROWS})")
    for host in hosts:
        host.query(f"SYSTEM SYNC REPLICA {table} LIGHTWEIGHT")
    return table


def folder(host, table: str) -> Path:
    """Where the server keeps a table."""
    of = f"concat(database, '.', name) = '{table}'"
    return Path(host.value(f"SELECT data_paths[1] FROM system.tables WHERE {of}"))


def state(host, table: str) -> tuple[int, str]:
    """Whether it is read-only, and why."""
    of = f"concat(database, '.', table) = '{table}'"
    ((readonly, why),) = host.query(f"SELECT is_readonly, zookeeper_exception FROM system.replicas WHERE {of}")
    return int(readonly), why


def count(host, table: str) -> int:
    """The rows that a reader sees."""
    return int(host.value(f"SELECT count() FROM {table}"))


def outcome(host, statement: str) -> int:
    """The code of the error that a statement ends with, or 0."""
    try:
        host.query(statement)
    except StatementFailed as error:
        return error.code
    return 0


@contextlib.contextmanager
def killed(cluster: Cluster, host, table: str, place: Place, others: tuple = ()):
    """What is done within makes the server come to the place, where it dies, and with it the other programs; all of
    them are started again, as systemd would."""
    path = folder(host, table)
    end = EndAtRename(host.pid, f"{path}/{place.rename}", cluster.directory, place.done)
    try:
        yield
        end.wait()
    finally:
        end.close()
    for program in others:
        program.kill()
    assert sorted(os.listdir(path / "detached")) == sorted(place.detached), "it was killed somewhere else"
    for program in others:
        program.start()
    host.start()


def is_started(host, table: str) -> bool:
    """The server does nothing more by itself: it is writable, without metadata, or refused, which only the log tells."""
    readonly, why = state(host, table)
    refused = re.compile(rf"<Error> {re.escape(table)} \(.*Code: 231\.")
    return not readonly or "No node" in why or refused.search(host.log.read_text(errors="replace")) is not None


def test_bare_statements(cluster):
    """RESTORE, killed and tried again, RESTART REPLICA, and ATTACH PART of what is left: rows are missing."""
    host, found = cluster.hosts[0], {}
    tables = {name: created([host], f"bare_{name.replace('-', '_')}") for name in PLACES}
    for name, table in tables.items():
        host.query(f"DETACH TABLE {table} PERMANENTLY SYNC")
        with cluster.zookeeper.client() as client:
            client.delete("/tables/01/" + table.replace(".", "/"), recursive=True)
        host.query(f"ATTACH TABLE {table}")
        wait_for(lambda table=table: "No node" in state(host, table)[1], f"{table} to be without metadata")
        with killed(cluster, host, table, PLACES[name]):
            restore = threading.Thread(target=dies, args=(host, f"SYSTEM RESTORE REPLICA {table}"))
            restore.start()
        restore.join()
    for name, table in tables.items():
        wait_for(lambda table=table: is_started(host, table), lambda table=table: f"{state(host, table)}")
        code = outcome(host, f"SYSTEM RESTORE REPLICA {table}")
        if code:
            host.query(f"SYSTEM RESTART REPLICA {table}")
        short = count(host, table)
        of = f"concat(database, '.', table) = '{table}'"
        attach = [
            outcome(host, f"ALTER TABLE {table} ATTACH PART '{left}'")
            for (left,) in host.query(f"SELECT name FROM system.detached_parts WHERE {of} ORDER BY name")
        ]
        found[name] = (short, count(host, table))
        print(f"{name}: RESTORE {code}, rows {found[name]}, ATTACH PART {attach}, read-only {state(host, table)}")
        host.query(f"DROP TABLE {table} SYNC")
    assert found == {name: (place.short, place.attached) for name, place in PLACES.items()}


def dies(host, statement: str) -> None:
    """A statement whose server does not live to its end."""
    with pytest.raises(OSError):
        host.query(statement)


class Migration:
    """One that stands where the server of a host holds a statement; what is done within lets it go on."""

    def __init__(self, cluster: Cluster, table: str, host, pattern: str):
        self.cluster, self.table, self.host, self.pattern = cluster, table, host, pattern
        self.name = table.removeprefix("d.").replace("_", "-")

    def __enter__(self):
        rekeeper = self.cluster.rekeeper
        self.proof, self.ledger = Proof(self.cluster.directory), Ledger(self.cluster.directory / f"{self.name}.jsonl")
        self.before = self.proof.record()
        rekeeper("plan", self.name, "--table", self.table, "--restart", "never").expect(DONE)
        self.hold(self.pattern)
        out = self.cluster.directory / f"{self.name}.out"
        self.following = rekeeper.background("start", self.name, "--yes", output=out)
        self.until_held()
        return self

    def hold(self, pattern: str) -> None:
        """Have the server hold statements."""
        self.held_before = len(self.host.query_log("held"))
        self.host.set_faults({"pattern": pattern, "wait": True})

    def until_held(self) -> None:
        """Until it holds one."""

        def status() -> str:
            return str(self.cluster.rekeeper("status", self.name))

        wait_for(lambda: self.host.query_log("held")[self.held_before :], status, timeout=60)

    def __exit__(self, *failure) -> None:
        self.host.clear_faults()
        if failure[0]:
            self.following.terminate()
        self.code = self.following.wait(timeout=150)

    def completed(self) -> None:
        """With every row of it on both replicas, once."""
        status = self.cluster.rekeeper.status(self.name)
        problems = [table["problem"] for table in status["tables"] if table["problem"]]
        assert (self.code, status["state"], problems) == (DONE, "COMPLETED", []), problems
        assert report(self.proof.check(self.before, self.ledger))
        self.cluster.query_all(f"DROP TABLE {self.table} SYNC")

    def program(self, name: str):
        """The coordinator, or the agent of the host."""
        return self.cluster.coordinator if name == "coordinator" else self.cluster.agents[self.host.name]


@pytest.mark.parametrize("name", PLACES)
def test_reference(cluster, name):
    """Every row is there, although the server, and others with it, were killed while the reference was restored."""
    place, host = PLACES[name], cluster.hosts[0]
    table = created(cluster.hosts, f"reference_{name.replace('-', '_')}")
    with Migration(cluster, table, host, f"^SYSTEM RESTORE REPLICA") as migration:
        with killed(cluster, host, table, place, tuple(map(migration.program, place.others))):
            host.clear_faults()
    migration.completed()
