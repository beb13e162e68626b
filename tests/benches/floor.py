#!/usr/bin/env python3
"""The floor of a migration: how fast it can be at all on this machine, with no care for what may go wrong.

    floor.py [N...]      for each N: tables on one host of the test rig are migrated by bare statements

The statements that a migration cannot do without, sent by a few bare connections: DETACH of every table; its nodes
deleted by pipelined multis, without listing what has no children; the host restarted by the rig; ATTACH and RESTORE of
every table. Nothing is checked, recorded or fenced meanwhile. In the end every row has to be there and every table
writable. Other benchmarks use the tables and the phases from here, so this file stays as it is.
"""

import concurrent.futures
import http.client
import sys
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "rig"))

from clickhouse import ClickHouse, StatementFailed  # noqa: E402
from rig import Cluster  # noqa: E402

CONNECTIONS = 4
DATABASE = "bench"
ROOT = f"/tables/01/{DATABASE}"
PARTS = 4
ROWS = 400
PHASES = ("detach", "clean", "restart", "attach", "restore")
# What has children in a table or a replica: leaves, but for the replicas themselves. All other nodes have none.
FOLDERS = frozenset(
    "replicas parts blocks async_blocks deduplication_hashes log queue mutations leader_election temp quorum"
    " block_numbers nonincrement_block_numbers lightweight_updates part_moves_shard".split()
)
OPERATIONS = 500
MULTIS_IN_FLIGHT = 4


def names(count: int) -> list[str]:
    """The tables of a benchmark, in one database."""
    return [f"t{number:05}" for number in range(count)]


def make(cluster: Cluster, count: int) -> None:
    """Make that many tables of four parts, each part in a partition of its own, so that nothing is ever merged."""
    (host,) = cluster.hosts
    host.query(f"CREATE DATABASE {DATABASE}")

    def create(connection: "Connection", table: str) -> None:
        connection.execute(
            f"CREATE TABLE {DATABASE}.{table} (id UInt64, text String)"
            f" ENGINE = ReplicatedMergeTree('/tables/{{shard}}/{{database}}/{{table}}', '{{replica}}')"
            f" PARTITION BY id % {PARTS} ORDER BY id"
        )
        connection.execute(
            f"INSERT INTO {DATABASE}.{table} SELECT number, 'row ' || toString(number) FROM numbers({ROWS})"
        )

    on_all(host, names(count), create)
    check(host, count)


def check(host: ClickHouse, count: int) -> None:
    """Fail unless all tables are there with all rows, in four parts each, and writable."""
    expected = [[str(count), str(count * PARTS), str(count * ROWS)]]
    found = host.query(
        f"SELECT uniqExact(table), count(), sum(rows) FROM system.parts WHERE database = '{DATABASE}' AND active"
    )
    if found != expected:
        raise AssertionError(f"tables, parts and rows are {found}, and {expected} are expected")
    rows = " UNION ALL ".join(f"SELECT count() AS n FROM {DATABASE}.{table}" for table in names(count))
    if (total := int(host.value(f"SELECT sum(n) FROM ({rows})"))) != count * ROWS:
        raise AssertionError(f"{total} of {count * ROWS} rows are there")
    states = host.query(
        "SELECT is_readonly, is_session_expired, zookeeper_exception, count() FROM system.replicas"
        f" WHERE database = '{DATABASE}' GROUP BY ALL"
    )
    if states != [["0", "0", "", str(count)]]:
        raise AssertionError(f"not all tables are in service: {states}")


class Connection:
    """One connection to a host that is kept open."""

    def __init__(self, host: ClickHouse):
        self._http = http.client.HTTPConnection("127.0.0.1", host.port, timeout=600)

    def execute(self, sql: str) -> None:
        """Send a statement and wait for its answer."""
        self._http.request("POST", "/?" + urlencode({"default_format": "TSV"}), sql.encode())
        answer = self._http.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise StatementFailed(text.strip())

    def close(self) -> None:
        """Close it."""
        self._http.close()


def on_all(host: ClickHouse, tables: list[str], work, connections: int = CONNECTIONS) -> None:
    """Call `work(connection, table)` for all tables, by some connections at the same time."""
    left = deque(tables)

    def run() -> None:
        connection = Connection(host)
        try:
            while True:
                try:
                    table = left.popleft()
                except IndexError:
                    return
                work(connection, table)
        finally:
            connection.close()

    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(run) for _ in range(connections)]:
            done.result()


def delete_nodes(client, tables: list[str]) -> int:
    """Delete the nodes of all tables with a connected kazoo client; how many there were."""
    paths = [f"{ROOT}/{table}" for table in tables]
    levels = [paths]
    folders = paths
    while folders:
        found: list[str] = []
        lists = [(folder, client.get_children_async(folder)) for folder in folders]
        folders = []
        for folder, listed in lists:
            parent, _, name = folder.rpartition("/")
            is_replica = parent.endswith("/replicas")
            for child in listed.get():
                found.append(f"{folder}/{child}")
                if name == "replicas" or (child in FOLDERS and (parent == ROOT or is_replica)):
                    folders.append(f"{folder}/{child}")
        levels.append(found)
    nodes = [path for level in reversed(levels) for path in level]
    under_way: deque = deque()
    for start in range(0, len(nodes), OPERATIONS):
        multi = client.transaction()
        for path in nodes[start : start + OPERATIONS]:
            multi.delete(path)
        under_way.append(multi.commit_async())
        if len(under_way) == MULTIS_IN_FLIGHT:
            _expect_all(under_way.popleft())
    while under_way:
        _expect_all(under_way.popleft())
    return len(nodes)


def _expect_all(multi) -> None:
    for answer in multi.get():
        if isinstance(answer, Exception):
            raise answer


def run(cluster: Cluster, count: int) -> dict[str, float]:
    """Migrate the tables by bare statements; seconds by phase, and the number of nodes as `znodes`."""
    (host,), tables = cluster.hosts, names(count)
    seconds: dict[str, float] = {}
    with cluster.zookeeper.client() as client:

        def timed(phase: str, work):
            began = time.monotonic()
            result = work()
            seconds[phase] = time.monotonic() - began
            return result

        def statement(text: str):
            return lambda: on_all(host, tables, lambda c, table: c.execute(text.format(f"{DATABASE}.{table}")))

        timed("detach", statement("DETACH TABLE {} PERMANENTLY SYNC"))
        znodes = timed("clean", lambda: delete_nodes(client, tables))
        timed("restart", host.restart)
        timed("attach", statement("ATTACH TABLE {}"))
        timed("restore", statement("SYSTEM RESTORE REPLICA {}"))
    check(host, count)
    return seconds | {"znodes": znodes}


def main() -> None:
    """The command line."""
    for count in [int(text) for text in sys.argv[1:]] or [100]:
        with Cluster(shards=1, replicas=1) as cluster:
            make(cluster, count)
            seconds = run(cluster, count)
        phases = ", ".join(f"{phase} {seconds[phase]:.2f}" for phase in PHASES)
        whole = sum(seconds[phase] for phase in PHASES)
        print(f"N = {count}: {whole:.2f} s ({phases}); {seconds['znodes']} znodes", flush=True)


if __name__ == "__main__":
    main()
