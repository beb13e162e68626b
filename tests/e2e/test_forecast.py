"""What a plan tells of each wave in advance, compared with what came of it."""

import pytest
import tables
from processes import wait_for
from programs import DONE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

# Its replica r2 runs no merges: what r1 merges is another part than those that r2 has.
LATE = Table("shop", "late", rows=200_000, inserts=4)
TABLES = [LATE, Table("shop", "even", rows=1000)]


@pytest.fixture
def cluster():
    """Two shards, of two hosts and of one, with Rekeeper and the tables."""
    with Cluster(shards=2, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        cluster.start_rekeeper()
        yield cluster


def bytes_of(host, table: Table) -> int:
    sql = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = {d:String} AND table = {t:String}"
    return int(host.value(sql, d=table.database, t=table.name))


def test_waves_cost_what_the_plan_has_told(cluster):
    rekeeper, proof, ledger = cluster.rekeeper, Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
    one, two = cluster.host("ch-01-1"), cluster.host("ch-01-2")
    two.query(f"SYSTEM STOP MERGES {LATE.quoted}")
    one.query(f"OPTIMIZE TABLE {LATE.quoted} FINAL SETTINGS alter_sync = 0, optimize_throw_if_noop = 0")
    count = f"SELECT count() FROM system.parts WHERE active AND database = 'shop' AND table = '{LATE.name}'"
    wait_for(lambda: one.value(count) == "1", "the merge on one replica")
    assert two.value(count) == "4"
    merged, parts = bytes_of(one, LATE), bytes_of(two, LATE)
    before = proof.record()
    planned = rekeeper("plan", "m1", "-o", "json").expect(DONE).json
    first, second = planned["forecast"]
    # At most: whichever of the two is restored first. The other table has the same parts everywhere.
    assert first["fetch_bytes"] == max(merged, parts) and second["fetch_bytes"] == 0
    for wave, hosts in ((first, ["ch-01-1", "ch-01-2"]), (second, ["ch-02-1", "ch-02-2"])):
        assert wave["hosts"] == hosts and (wave["replica_sets"], wave["tables"]) == (2, 4)
        assert wave["shared_tables"] == 2 and wave["tied_by"] == [] and 3 <= wave["unavailable_seconds"] <= 10
    shown = rekeeper("plan", "m2").expect(DONE).stdout
    assert "tied together by 2 tables, such as shop.even" in shown and "fetched again: at most 0 bytes\n" in shown
    assert "s (by assumed rates)\n" in shown and "(taken for 1 Gbit/s: assumed)" in shown
    assert first["measured_in"] is None and second["measured_in"] is None
    rekeeper("start", "m1", "--yes").expect(DONE)
    assert report(proof.check(before, ledger))
    fetched = [
        (table["host"], table["table"], part["now"])
        for table in rekeeper("report", "m1", "-o", "json").expect(DONE).json["tables"]
        for part in table["parts"]
        if part["fate"] not in ("active", "empty")
    ]
    print(fetched)
    # Nothing was fetched that was not told, and what was told was.
    assert {(host, table) for host, table, _ in fetched} <= {("ch-01-2", "late"), ("ch-01-1", "late")} and fetched
    waves = rekeeper.status("m1")["waves"]
    print(waves)
    assert [wave["counts"]["RESTORED"] for wave in waves] == [4, 4]
    measured = [wave["measured_seconds"] for wave in waves]
    # The restart alone takes more than a second.
    assert all(1 < seconds < 120 for seconds in measured)
    # The second wave is expected to take what the first one took of its forecast.
    corrected = second["unavailable_seconds"] * measured[0] / first["unavailable_seconds"]
    assert waves[0]["expected_seconds"] == first["unavailable_seconds"]
    assert corrected - 2 <= waves[1]["expected_seconds"] <= corrected + 3
    # A coordinator that starts anew reads it from the log.
    cluster.coordinator.restart()
    again = wait_for(lambda: rekeeper("status", "m1", "-o", "json").code == DONE and rekeeper.status("m1"), "it to be up")
    assert [abs(wave["measured_seconds"] - seconds) <= 1 for wave, seconds in zip(again["waves"], measured)] == [True] * 2
    # The next plan of these hosts tells what this one took.
    rekeeper.wait_for_agents(*cluster.agents)
    forecast = rekeeper("plan", "m3", "-o", "json").expect(DONE).json["forecast"]
    print(forecast)
    assert [wave["measured_in"] for wave in forecast] == ["m1", "m1"]
    for wave, seconds in zip(forecast, measured):
        # Nothing is fetched now, and there may be fewer parts.
        assert 0.6 * seconds - 1 <= wave["unavailable_seconds"] <= 1.2 * seconds + 2
    assert "(at the pace of migration m1)" in " ".join(rekeeper("plan", "m4").expect(DONE).stdout.split())
