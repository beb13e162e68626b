"""Databases and tables whose names are of every kind of letter go all the way, and are seen and named by people."""

import unicodedata

import pytest
from clickhouse import quoted
from programs import DONE, USAGE
from proof import Proof, report
from rig import Cluster
from writer import Ledger

DATABASE = "订单 базы"
# Wide letters, marks that combine, right to left, emoji; then what a terminal would obey or hide.
NAMES = [
    "表",
    "e\u0301te\u0301",
    "שלום عالم",
    "🦀 crab",
    "n" * 160,
    "a\u202eb",
    "\u200b",
    "\x1b[31mred\x1b]0;title\x07",
    "line\nend\ttab\\ `it's`",
    "\x9b2J",
]


@pytest.fixture
def one():
    """One host with Rekeeper, and a table of each name."""
    with Cluster(shards=1, replicas=1) as cluster:
        (host,) = cluster.hosts
        host.query(f"CREATE DATABASE {quoted(DATABASE)}")
        for number, name in enumerate(NAMES):
            table = f"{quoted(DATABASE)}.{quoted(name)}"
            # ZooKeeper takes no control characters.
            path = f"/tables/{number}-{name}" if name.isalpha() and len(name) < 10 else f"/tables/{number}"
            engine = f"ReplicatedMergeTree('{path}', 'r1')"
            host.query(f"CREATE TABLE {table} (id UInt64, text String DEFAULT '') ENGINE = {engine} ORDER BY id")
            host.query(f"INSERT INTO {table} (id) SELECT number FROM numbers(10)")
        cluster.start_rekeeper()
        yield cluster


def width(text: str) -> int:
    """Columns of a terminal."""

    def of(character: str) -> int:
        if unicodedata.category(character) in ("Mn", "Me", "Cf"):
            return 0
        return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1

    return sum(map(of, text))


def test_names_of_every_kind(one):
    rekeeper, proof, ledger = one.rekeeper, Proof(one.directory), Ledger(one.directory / "ledger.jsonl")
    before = proof.record()
    planned = rekeeper("plan", "m1").expect(DONE)
    shown = [planned, rekeeper("start", "m1", "--dry-run").expect(DONE), rekeeper("start", "m1", "--yes").expect(DONE)]
    shown += [rekeeper(command, "m1").expect(DONE) for command in ("status", "events", "report", "export", "problems")]
    shown += [rekeeper("status", "m1", "-o", form).expect(DONE) for form in ("json", "yaml")]
    for answer in shown:
        obeyed = [c for c in answer.stdout + answer.stderr if c != "\n" and unicodedata.category(c) in ("Cc", "Cf")]
        assert not obeyed, answer
    status = rekeeper.status("m1")
    assert sorted(table["table"] for table in status["tables"]) == sorted(NAMES)
    assert {table["status"] for table in status["tables"]} == {"RESTORED"}
    assert report(proof.check(before, ledger))
    # Columns: what stands under STATUS begins where the heading does, however wide the names are.
    lines = shown[3].stdout.splitlines()
    head = next(line for line in lines if line.startswith("TABLE "))
    begins = {width(line[: line.index("RESTORED")]) for line in lines if "ch-01-1  RESTORED" in line}
    assert begins == {head.index("STATUS")}
    # A name is taken as it is printed, wherever it is asked for.
    printed = [line.split("  ")[0] for line in lines if "ch-01-1  RESTORED" in line]
    assert len(set(printed)) == len(NAMES)
    for name in printed:
        planned = rekeeper("plan", "none", "--table", name, "--host", "ch-01-1", "--exclude", "no.such").expect(USAGE)
        assert "matches no.such;" in planned.stderr, planned
