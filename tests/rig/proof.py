#!/usr/bin/env python3
"""Proves, without Rekeeper, that a migration lost nothing and made every table's ZooKeeper metadata anew.

    proof.py CLUSTER --record FILE                       before it: writes down what has to be the same afterwards
    proof.py CLUSTER --before FILE [--ledger FILE] [--old-root ROOT] [--same-metadata]

CLUSTER is the directory of a test cluster. Nobody may write meanwhile. Every table has a column `id`; the rows from
FIRST_WRITTEN_ID on are those of the ledger. Ends with 0 when everything holds, otherwise with 1.
"""

import argparse
import json
import sys
import xml.etree.ElementTree as xml
from dataclasses import asdict, dataclass
from pathlib import Path

from clickhouse import ClickHouse, StatementFailed, quoted
from processes import Timeout, wait_for
from writer import FIRST_WRITTEN_ID, Ledger, new_ids
from zookeeper_server import Client

DESCRIPTION = "cluster.json"
CATCH_UP_SECONDS = 60


@dataclass(frozen=True)
class Replica:
    """One table replica, and of its rows those that nobody writes."""

    host: str
    shard: str
    database: str
    table: str
    uuid: str
    definition: str
    path: str
    rows: int
    hash: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it."""
        return self.host, self.database, self.table


def describe(directory: Path, zookeeper: str, hosts: list) -> None:
    """Leave in a cluster's directory what a proof has to know."""
    known = [{"name": h.name, "shard": h.shard, "port": h.port, "password": h.password} for h in hosts]
    (directory / DESCRIPTION).write_text(json.dumps({"zookeeper": zookeeper, "hosts": known}))


class Proof:
    """Looks at one cluster through its own connections."""

    def __init__(self, directory: Path):
        description = json.loads((directory / DESCRIPTION).read_text())
        self.directory = directory
        self.hosts = {h["name"]: ClickHouse(**h) for h in description["hosts"]}
        self.zookeeper = description["zookeeper"]

    def record(self) -> dict:
        """What has to be the same after the migration, and the point in ZooKeeper's history at which it was so."""
        self._catch_up()
        with Client(self.zookeeper) as client:
            client.exists("/")
            zxid = client.last_zxid
        return {"zxid": zxid, "replicas": [asdict(replica) for replica in self.replicas()]}

    def replicas(self) -> list[Replica]:
        """All table replicas of the cluster as they are now."""
        return [replica for name, host in self.hosts.items() for replica in self._replicas(name, host)]

    def check(
        self, before: dict, ledger: Ledger | None = None, old_root: str | None = None, same_metadata: bool = False
    ) -> list[tuple[str, ...]]:
        """A line for each table of each shard: where, how many rows, what is wrong."""
        self._probe_inserts(before, ledger)
        self._catch_up()
        now = {replica.key: replica for replica in self.replicas()}
        created = self._creation_zxids(now.values())
        lines = []
        for place in sorted({(r["shard"], r["database"], r["table"]) for r in before["replicas"]}):
            expected = [Replica(**r) for r in before["replicas"] if (r["shard"], r["database"], r["table"]) == place]
            problems, rows, written = self._check_table(expected, now, ledger)
            for current in (now[replica.key] for replica in expected if replica.key in now):
                if not same_metadata and created[current.key] <= before["zxid"]:
                    problems.append(f"{current.host}: znodes of {current.path} are not new")
                if old_root is not None and current.path.startswith(old_root.rstrip("/") + "/"):
                    problems.append(f"{current.host}: {current.path} is still under {old_root}")
            lines.append((place[0], f"{place[1]}.{place[2]}", str(rows), str(written), "; ".join(problems)))
        if old_root is not None:
            left = self._left_under(old_root)
            lines.append(("", f"old root {old_root}", "", "", f"still there: {left}" if left else ""))
        return lines

    def _check_table(self, expected: list[Replica], now: dict, ledger: Ledger | None) -> tuple[list[str], int, int]:
        problems, contents = [], {}
        acknowledged = {}
        for replica in expected:
            current = now.get(replica.key)
            if current is None:
                problems.append(f"{replica.host}: the table is not there")
                continue
            if (current.rows, current.hash) != (replica.rows, replica.hash):
                problems.append(f"{replica.host}: {current.rows} of {replica.rows} rows or other contents")
            if (current.uuid, current.definition) != (replica.uuid, replica.definition):
                problems.append(f"{replica.host}: another UUID or definition")
            host, name = self.hosts[replica.host], _name(replica)
            state = host.query(
                "SELECT is_readonly, active_replicas, total_replicas FROM system.replicas"
                " WHERE database = {d:String} AND table = {t:String}",
                d=replica.database,
                t=replica.table,
            )
            if state != [["0", str(len(expected)), str(len(expected))]]:
                problems.append(f"{replica.host}: read-only, active, total = {state}")
            if ledger:
                acknowledged = ledger.rows(replica.shard, replica.database, replica.table)
                problems += [f"{replica.host}: {p}" for p in _compare(host, name, acknowledged)]
            contents[replica.host] = _contents(host, replica.database, replica.table, written=True)
        if len(set(contents.values())) > 1:
            problems.append(f"replicas differ: {contents}")
        return problems, expected[0].rows, len(acknowledged)

    def _probe_inserts(self, before: dict, ledger: Ledger | None) -> None:
        """Write one row into each table on one replica, and demand it on the others."""
        for replica in [Replica(**r) for r in before["replicas"]]:
            host = self.hosts[replica.host]
            (row,) = new_ids(1)
            try:
                host.query(f"INSERT INTO {_name(replica)} (id) VALUES ({row})")
            except StatementFailed:
                continue  # a table that is not there, or read-only, is found by the checks
            if ledger:
                ledger.acknowledge(replica.shard, replica.database, replica.table, [row])
            for other in (other for other in self.hosts.values() if other.shard == replica.shard):
                _wait_for_row(other, _name(replica), row)

    def _catch_up(self) -> None:
        for host in self.hosts.values():
            for database, table in host.query("SELECT database, table FROM system.replicas WHERE NOT is_readonly"):
                host.query(f"SYSTEM SYNC REPLICA {quoted(database)}.{quoted(table)} LIGHTWEIGHT")

    def _replicas(self, name: str, host: ClickHouse) -> list[Replica]:
        rows = host.query(
            "SELECT r.database, r.table, t.uuid, t.create_table_query, r.zookeeper_path FROM system.replicas AS r"
            " JOIN system.tables AS t ON t.database = r.database AND t.name = r.table ORDER BY 1, 2"
        )
        found = []
        for database, table, uuid, definition, path in rows:
            count, hash_ = _contents(host, database, table, written=False)
            full = self._root(name) + path
            found.append(Replica(name, host.shard, database, table, uuid, definition, full, count, hash_))
        return found

    def _root(self, host: str) -> str:
        root = xml.parse(self.directory / host / "config.xml").findtext("zookeeper/root") or ""
        return root.rstrip("/")

    def _creation_zxids(self, replicas) -> dict[tuple, int]:
        with Client(self.zookeeper) as client:
            stats = {replica.key: client.exists(replica.path) for replica in replicas}
        return {key: stat.czxid if stat else 0 for key, stat in stats.items()}

    def _left_under(self, root: str) -> list[str]:
        """Nodes under `root` that belong to a table or to Rekeeper."""
        left, unseen = [], [root]
        with Client(self.zookeeper) as client:
            while unseen:
                path = unseen.pop()
                children = client.get_children(path)
                if {"replicas", "log"} & set(children) or path.rpartition("/")[2].startswith("rekeeper-"):
                    left.append(path)
                unseen += [f"{path.rstrip('/')}/{child}" for child in children]
        return left


def _name(replica: Replica) -> str:
    return f"{quoted(replica.database)}.{quoted(replica.table)}"


def _wait_for_row(host: ClickHouse, name: str, row: int) -> None:
    count = f"SELECT count() FROM {name} WHERE id = {row}"
    wait_for(lambda: host.value(count) == "1", f"row {row} of {name} to be on {host.name}", CATCH_UP_SECONDS)


def _contents(host: ClickHouse, database: str, table: str, *, written: bool) -> tuple[int, int]:
    """Number and hash of the rows, with or without those that were written meanwhile."""
    engine = host.value(
        "SELECT engine FROM system.tables WHERE database = {d:String} AND name = {t:String}", d=database, t=table
    )
    # Other engines drop or fold rows when they merge, at any time.
    final = "" if engine == "ReplicatedMergeTree" else "FINAL"
    rows = "" if written else f"WHERE id < {FIRST_WRITTEN_ID}"
    ((count, hash_),) = host.query(
        f"SELECT count(), sum(cityHash64(*)) FROM {quoted(database)}.{quoted(table)} {final} {rows}"
    )
    return int(count), int(hash_)


def _compare(host: ClickHouse, name: str, acknowledged: dict[int, bool]) -> list[str]:
    """What is wrong with the written rows of a table."""
    there = host.query(f"SELECT id, count() FROM {name} WHERE id >= {FIRST_WRITTEN_ID} GROUP BY id")
    counts = {int(row): int(count) for row, count in there}
    problems = []
    if missing := [row for row in acknowledged if row not in counts]:
        problems.append(f"{len(missing)} acknowledged rows are missing, such as {missing[0]}")
    if twice := [row for row, uncertain in acknowledged.items() if counts.get(row, 0) > 1 and not uncertain]:
        problems.append(f"{len(twice)} rows that were sent once are there twice, such as {twice[0]}")
    return problems


def report(lines: list[tuple[str, ...]]) -> bool:
    """Print what `check` found; whether all of it is well."""
    heading = ("shard", "table", "rows", "written", "")
    widths = [max(len(line[i]) for line in [heading, *lines]) for i in range(4)]

    def show(line: tuple[str, ...], result: str) -> None:
        print("  ".join([line[i].ljust(widths[i]) for i in range(4)] + [result]).rstrip())

    show(heading, "")
    for line in lines:
        show(line, f"WRONG: {line[4]}" if line[4] else "ok")
    passed = bool(lines) and not any(line[4] for line in lines)
    print("PASS" if passed else "FAIL")
    return passed


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cluster", type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path)
    what.add_argument("--before", type=Path)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--old-root")
    parser.add_argument("--same-metadata", action="store_true", help="nothing was migrated: do not ask for new znodes")
    args = parser.parse_args()
    proof = Proof(args.cluster)
    if args.record:
        args.record.write_text(json.dumps(proof.record()))
        return 0
    ledger = Ledger(args.ledger) if args.ledger else None
    try:
        lines = proof.check(json.loads(args.before.read_text()), ledger, args.old_root, args.same_metadata)
    except Timeout as problem:
        print(f"FAIL: {problem}")
        return 1
    return 0 if report(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
