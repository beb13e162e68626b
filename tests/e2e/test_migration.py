"""Whole migrations by the real programs: what operators are promised, proved without asking Rekeeper."""

import json
import re
from pathlib import Path

import pytest
import tables
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS, UNREACHABLE, USAGE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger, Writer

CACHES = {"MARK", "UNCOMPRESSED", "PRIMARY INDEX", "QUERY CONDITION"}
CHANGING = re.compile(r"\s*(ATTACH|DETACH|ALTER|DROP|CREATE|RENAME|INSERT|OPTIMIZE|SYSTEM)\b", re.IGNORECASE)
ONE = [Table("shop", "orders")]


class Watch:
    """What has to be the same after a migration, written down before it."""

    def __init__(self, cluster: Cluster):
        self.proof, self.ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        self.before = self.proof.record()

    def prove(self, **options) -> None:
        """Fail unless nothing is lost and, by default, all metadata is new."""
        assert report(self.proof.check(self.before, self.ledger, **options))


def run(cluster: Cluster, name: str, *options: str) -> dict:
    """Plan and carry out one migration; its status document."""
    cluster.rekeeper("plan", name, *options).expect(DONE)
    cluster.rekeeper("start", name, "--yes", timeout=600).expect(DONE)
    status = cluster.rekeeper.status(name)
    assert status["state"] == "COMPLETED" and status["phase"] == "done"
    assert status["counts"]["RESTORED"] == len(status["tables"]) and status["counts"]["failed"] == 0
    assert {table["status"] for table in status["tables"]} == {"RESTORED"}
    assert [table["problem"] for table in status["tables"]] == [None] * len(status["tables"])
    return status


def statements(cluster: Cluster) -> list[str]:
    """All statements that the hosts have received, in the order of their arrival."""
    records = sorted((r for host in cluster.hosts for r in host.query_log()), key=lambda r: r["time"])
    return [record["sql"] for record in records]


def changes(sent: list[str]) -> list[str]:
    return [sql for sql in sent if CHANGING.match(sql)]


def nodes(cluster: Cluster, path: str) -> dict[str, int]:
    """Every node below `path` with the transaction that last changed it."""
    found, unseen = {}, [path]
    with cluster.zookeeper.client() as client:
        while unseen:
            current = unseen.pop()
            # Members of the hosts' own sessions come and go.
            children = [c for c in client.get_children(current) if c != "is_active"]
            found[current] = client.exists(current).mzxid
            unseen += [f"{current}/{child}" for child in children]
    return found


def test_one_table_on_one_host(one_host):
    tables.create(one_host.shards(), ONE)
    watch, (host,) = Watch(one_host), one_host.hosts
    pid, seen = host.pid, len(statements(one_host))
    status = run(one_host, "m1")
    sent = changes(statements(one_host)[seen:])
    watch.prove()
    assert host.pid != pid
    (table,) = status["tables"]
    assert (table["host"], table["database"], table["table"]) == ("ch-01-1", "shop", "orders")
    assert table["zookeeper_path"] == "/tables/01/shop/orders" and table["replica_name"] == "r1"
    assert table["rows"] == 1000 and table["parts"] >= 1
    (replica_set,) = status["replica_sets"]
    assert replica_set["settled"] and replica_set["reference"] == "ch-01-1" and replica_set["znodes_deleted"] > 0
    export, told = replica_set["export"], one_host.rekeeper("events", "m1").expect(DONE).stdout
    assert export["host"] == "ch-01-1" and Path(export["file"]).stat().st_size == export["bytes"]
    # The marker of the record is in it, which was replaced and not counted.
    assert export["nodes"] == replica_set["znodes_deleted"] + 1
    assert told.count(f"exported to {export['file']}") == 2
    order = [i for word in ("DETACH TABLE", "ATTACH TABLE", "SYSTEM RESTORE REPLICA") for i in first(sent, word)]
    assert order == sorted(order) and len(order) == 3
    assert all("PERMANENTLY" in sql for sql in sent if sql.upper().startswith("DETACH"))
    _, attach, restore = order
    assert any(sql.upper().startswith("SYSTEM STOP MERGES") for sql in sent[attach:restore])
    after_restore = "\n".join(sent[restore:]).upper()
    assert {cache for cache in CACHES if f"SYSTEM DROP {cache} CACHE" in after_restore} == CACHES


def first(sent: list[str], word: str) -> list[int]:
    return [i for i, sql in enumerate(sent) if sql.upper().startswith(word)][:1]


def test_plan_changes_nothing(one_host):
    tables.create(one_host.shards(), ONE)
    watch, seen, before = Watch(one_host), len(statements(one_host)), nodes(one_host, "/tables")
    one_host.rekeeper("plan", "m1").expect(DONE)
    assert changes(statements(one_host)[seen:]) == []
    assert nodes(one_host, "/tables") == before
    assert one_host.rekeeper.status("m1")["state"] == "PLANNED"
    watch.prove(same_metadata=True)


@pytest.mark.timeout(1200)
def test_whole_cluster_again_and_again_under_writes(two_by_two):
    tables.create(two_by_two.shards(), tables.KINDS)
    written = [(table.database, table.name) for table in tables.WRITTEN]
    for name, options in ("m1", []), ("m2", []), ("m3", ["--restart", "never"]):
        watch, pids = Watch(two_by_two), [host.pid for host in two_by_two.hosts]
        with Writer(two_by_two.shards(), written, watch.ledger) as writer:
            writer.wait_for_inserts(10)
            status = run(two_by_two, name, *options)
            writer.wait_for_inserts(10)
        watch.prove()
        assert len(status["tables"]) == 4 * len(tables.KINDS)
        restarted = [old != host.pid for old, host in zip(pids, two_by_two.hosts, strict=True)]
        assert restarted == [not options] * 4


@pytest.mark.timeout(900)
def test_hook_moves_the_cluster_to_another_root(two_by_two):
    tables.create(two_by_two.shards(), tables.some(6))
    watch = Watch(two_by_two)
    two_by_two.order_root_switch("/after")
    run(two_by_two, "move")
    watch.prove(old_root="/before")
    paths = {replica.path for replica in watch.proof.replicas()}
    assert all(path.startswith("/after/tables/") for path in paths)


def test_only_the_selected_tables_are_touched(one_host):
    stored = Table("shop", "on object storage", settings="storage_policy = 'object_storage'")
    made = [Table("shop", "a"), Table("shop", "b"), Table("archive", "a"), stored]
    tables.create(one_host.shards(), made)
    status = run(one_host, "m1", "--table", "shop.*", "--exclude", "shop.b")
    assert {(t["database"], t["table"]) for t in status["tables"]} == {("shop", "a"), ("shop", "on object storage")}
    status = run(one_host, "m2", "--disk", "object_storage")
    assert {(t["database"], t["table"]) for t in status["tables"]} == {("shop", "on object storage")}


def test_wrong_usage_ends_with_2_and_a_coordinator_out_of_reach_with_4(one_host):
    tables.create(one_host.shards(), ONE)
    rekeeper = one_host.rekeeper
    rekeeper("plan", "m1").expect(DONE)
    rekeeper("plan", "m1").expect(USAGE)
    rekeeper("plan", "m2", "--table", "shop.nothing").expect(USAGE)
    rekeeper("status", "unknown").expect(USAGE)
    rekeeper("start", "unknown", "--yes").expect(USAGE)
    one_host.coordinator.terminate()
    rekeeper("status").expect(UNREACHABLE)


def test_host_without_agent_blocks_the_plan_and_nothing_is_saved():
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.start_rekeeper()
        tables.create(cluster.shards(), ONE)
        absent = cluster.agents["ch-01-2"]
        absent.terminate()
        rekeeper = cluster.rekeeper
        wait_for(lambda: [h["connected"] for h in rekeeper("hosts", "-o", "json").json].count(True) == 1, "one agent")
        answer = rekeeper("plan", "m1", "-o", "json").expect(BLOCKED)
        assert answer.json["blockers"] and all(b["code"] and b["fix"] for b in answer.json["blockers"])
        rekeeper("status", "m1").expect(USAGE)


def test_stops_at_each_barrier_and_goes_on(one_host):
    tables.create(one_host.shards(), ONE)
    watch, rekeeper = Watch(one_host), one_host.rekeeper
    rekeeper("plan", "m1").expect(DONE)
    for until, expected in ("detached", "DETACHED"), ("zk-cleaned", "ZK_CLEANED"), ("restarted", "ZK_CLEANED"):
        rekeeper("start", "m1", "--until", until, "--yes").expect(DONE)
        status = rekeeper.status("m1")
        assert status["state"] == "PAUSED" and [t["status"] for t in status["tables"]] == [expected]
    rekeeper("start", "m1", "--yes").expect(DONE)
    assert rekeeper.status("m1")["state"] == "COMPLETED"
    watch.prove()


def test_abort_puts_detached_tables_back_into_service(one_host):
    tables.create(one_host.shards(), ONE)
    watch, rekeeper = Watch(one_host), one_host.rekeeper
    rekeeper("plan", "m1").expect(DONE)
    rekeeper("start", "m1", "--until", "detached", "--yes").expect(DONE)
    # The host takes part in it, and its table is not even to be seen now.
    overlap = rekeeper("plan", "m2", "-o", "json").expect(BLOCKED).json
    assert "MIGRATION_OVERLAP" in [blocker["code"] for blocker in overlap["blockers"]]
    rekeeper("abort", "m1").expect(DONE, PROBLEMS)
    status = rekeeper.wait_for_state("m1", "ABORTED")
    assert status["counts"]["INIT"] == 1
    watch.prove(same_metadata=True)


def test_failed_restore_is_a_problem_that_retry_solves(one_host):
    tables.create(one_host.shards(), ONE)
    watch, rekeeper, (host,) = Watch(one_host), one_host.rekeeper, one_host.hosts
    host.set_faults({"pattern": "^\\s*SYSTEM RESTORE REPLICA", "code": 241, "message": "Memory limit exceeded"})
    rekeeper("plan", "m1").expect(DONE)
    rekeeper("start", "m1", "--yes").expect(PROBLEMS)
    status = rekeeper.status("m1")
    assert status["state"] == "FAILED" and status["counts"]["failed"] == 1
    assert status["tables"][0]["problem"]["code"] and status["tables"][0]["problem"]["fix"]
    assert json.loads(rekeeper("problems", "m1", "-o", "json").stdout)
    host.clear_faults()
    rekeeper("retry", "m1").expect(DONE, PROBLEMS)
    rekeeper.wait_for_state("m1", "COMPLETED")
    watch.prove()
