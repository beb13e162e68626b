"""`rekeeper report` accounts for every part of every manifest, and for every folder that is left in detached/."""

import shutil

import pytest
import tables
from programs import DONE, PROBLEMS, USAGE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

TABLES = [
    Table("shop", "orders", settings=tables.NEVER_MERGES, rows=60, inserts=6),
    Table("shop", "bad", settings=tables.NEVER_MERGES, rows=20, inserts=2),
    Table("shop", "empty", rows=0, inserts=0),
]
STALE = "broken_all_77_77_0"


@pytest.fixture
def two():
    """Two replicas of one shard with Rekeeper and the tables; one has a stale folder in detached/."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        host = cluster.host("ch-01-1")
        folder = host.value("SELECT path FROM system.parts WHERE table = 'orders' AND active LIMIT 1").rstrip("/")
        shutil.copytree(folder, f"{folder.rpartition('/')[0]}/detached/{STALE}")
        cluster.start_rekeeper()
        yield cluster


def by_replica(document: dict) -> dict[tuple[str, str], dict]:
    """The tables of a report by host and name."""
    return {(table["host"], table["table"]): table for table in document["tables"]}


def on_disk(cluster: Cluster, host: str, table: str) -> tuple[dict[str, int], set[str]]:
    """The active parts with their rows, and the names in detached/, without asking Rekeeper."""
    host = cluster.host(host)
    active = host.query(f"SELECT name, rows FROM system.parts WHERE table = '{table}' AND active")
    detached = host.query(f"SELECT name FROM system.detached_parts WHERE table = '{table}'")
    return {name: int(rows) for name, rows in active}, {name for (name,) in detached}


def test_report_of_a_failed_and_of_a_completed_migration(two):
    rekeeper, proof = two.rekeeper, Proof(two.directory)
    replicas = [(host.name, table.name) for host in two.hosts for table in TABLES]
    before, parts_before = proof.record(), {replica: on_disk(two, *replica)[0] for replica in replicas}
    rekeeper("report", "m1").expect(USAGE)
    rekeeper("plan", "m1").expect(DONE)
    planned = rekeeper("report", "m1", "-o", "json").expect(DONE).json
    assert planned["state"] == "PLANNED" and set(by_replica(planned)) == set(replicas)
    assert [t["parts"] for t in planned["tables"]] == [None] * len(replicas)

    two.host("ch-01-1").set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*bad", "code": 497, "message": "Not now"})
    rekeeper("start", "m1", "--yes").expect(PROBLEMS)
    failed = rekeeper("report", "m1", "-o", "json").expect(DONE).json
    assert failed["state"] == "FAILED"
    for replica, table in by_replica(failed).items():
        assert {part["name"]: part["rows"] for part in table["parts"]} == parts_before[replica]
        if table["table"] == "bad":
            assert table["fates"] == {"open": 2} and table["detached"] is None
        else:
            assert "open" not in table["fates"] and table["problem"] is None
    assert by_replica(failed)["ch-01-1", "bad"]["problem"]["code"] == "RESTORE_FAILED"
    shown = rekeeper("report", "m1").expect(DONE).stdout
    assert "RESTORE_FAILED" in shown and STALE in shown

    two.host("ch-01-1").clear_faults()
    rekeeper("retry", "m1").expect(DONE, PROBLEMS)
    rekeeper.wait_for_state("m1", "COMPLETED", timeout=120)
    completed = by_replica(rekeeper("report", "m1", "-o", "json").expect(DONE).json)
    for replica, table in completed.items():
        active, detached = on_disk(two, *replica)
        print(replica, table["role"], table["fates"], sorted(detached))
        # Every part of the manifest is one of the active parts now, each another, with its rows.
        assert {part["name"]: part["rows"] for part in table["parts"]} == parts_before[replica]
        assert {part["now"]: part["rows"] for part in table["parts"]} == active
        assert sum(table["fates"].values()) == len(table["parts"])
        assert {part["fate"] for part in table["parts"]} <= {"active", "fetched"}
        assert table["role"] == ("reference" if table["host"] == "ch-01-1" else "follower")
        # And every folder that is left has its reason.
        assert {folder["name"] for folder in table["detached"]} == detached
        assert all(folder["text"] for folder in table["detached"])
    (stale,) = [f for f in completed["ch-01-1", "orders"]["detached"] if f["name"] == STALE]
    assert stale["why"] == "there_before" and stale["part"] is None
    yaml = rekeeper("report", "m1", "-o", "yaml").expect(DONE).stdout
    assert all(f"name: {part}" in yaml for part in parts_before["ch-01-2", "orders"])

    # What was left is accounted for by the next migration as what was there before.
    assert report(proof.check(before, Ledger(two.directory / "ledger.jsonl")))
