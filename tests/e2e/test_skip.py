"""`skip` leaves a table out and puts it back into service; after the first deletion forward is the only way."""

import pytest
import tables
from programs import BLOCKED, DONE, PROBLEMS, USAGE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

BAD = Table("shop", "bad", rows=60)
TABLES = [BAD, Table("shop", "good", rows=60), Table("archive", "bad", rows=60)]
PATH = "/tables/01/shop/bad"
PASSING = {"code": 241, "message": "Memory limit exceeded"}


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with Rekeeper and the tables."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        cluster.start_rekeeper()
        yield cluster


def created(cluster: Cluster) -> dict[str, int]:
    """The transaction that created the metadata of each table."""
    with cluster.zookeeper.client() as client:
        paths = [f"/tables/01/{table.database}/{table.name}" for table in TABLES]
        return {path: client.exists(path).czxid for path in paths}


def is_left_out(cluster: Cluster, name: str, before: dict[str, int]) -> None:
    """The migration is done; `shop.bad` is in service on its old metadata with nothing of Rekeeper's, and insertable."""
    document = cluster.rekeeper.status(name)
    assert document["state"] == "COMPLETED" and document["counts"]["failed"] == 0
    left = {(f"{t['database']}.{t['table']}", t["status"], t["skipped"], t["problem"]) for t in document["tables"]}
    assert left == {
        ("shop.bad", "INIT", True, None),
        ("shop.good", "RESTORED", False, None),
        ("archive.bad", "RESTORED", False, None),
    }
    now = created(cluster)
    assert {path for path in now if now[path] == before[path]} == {PATH}
    for host in cluster.hosts:
        host.query(f"INSERT INTO {BAD.quoted} (id) VALUES (1000)")
    with cluster.zookeeper.client() as client:
        assert [name for name in client.get_children(PATH) if "rekeeper" in name] == []
        assert all(client.exists(f"{PATH}/replicas/{r}/is_active").ephemeralOwner for r in ("r1", "r2"))
        # Nobody may add to a log that is frozen.
        assert all(acl.perms == 31 for acl in client.get_acls(f"{PATH}/log")[0])
    events = cluster.rekeeper("events", name).expect(DONE).stdout
    assert "skip of shop.bad by " in events


def test_what_blocks_the_start_is_left_out(two):
    """Nothing was detached yet: the check that stops the table stops the others no more."""
    rekeeper, before = two.rekeeper, created(two)
    rekeeper("plan", "m1").expect(DONE)
    with two.zookeeper.client() as client:
        client.create(f"{PATH}/replicas/ghost")
        assert "REPLICA_NOT_PLANNED" in rekeeper("start", "m1", "--yes").expect(BLOCKED).stderr
        rekeeper("skip", "m1", "--table", "shop.bad").expect(DONE)
        rekeeper("start", "m1", "--yes").expect(DONE)
        client.delete(f"{PATH}/replicas/ghost")
    is_left_out(two, "m1", before)


def test_what_is_detached_is_put_back(two):
    rekeeper, before = two.rekeeper, created(two)
    rekeeper("plan", "m2").expect(DONE)
    rekeeper("start", "m2", "--until", "detached", "--yes").expect(DONE)
    rekeeper("skip", "m2", "--table", "shop.bad").expect(DONE)
    # Put back at once; the others still stand at the barrier.
    rekeeper.wait_for_state("m2", "PAUSED")
    assert "(skipped)" in rekeeper("status", "m2").expect(DONE).stdout
    assert {t["status"] for t in rekeeper.status("m2")["tables"] if t["skipped"]} == {"INIT"}
    rekeeper("start", "m2", "--yes").expect(DONE)
    is_left_out(two, "m2", before)


def test_what_has_a_problem_is_left_out_and_what_is_cleaned_is_not(two):
    rekeeper, before = two.rekeeper, created(two)
    rekeeper("plan", "m3").expect(DONE)
    two.host("ch-01-2").set_faults({"pattern": "^DETACH TABLE .*shop.*bad", "code": 497, "message": "Not enough"})
    rekeeper("start", "m3", "--yes").expect(PROBLEMS)
    assert rekeeper.status("m3")["state"] == "FAILED"
    two.host("ch-01-2").clear_faults()
    rekeeper("skip", "m3", "--table", "shop.none").expect(USAGE)
    rekeeper("skip", "m3", "--table", "shop.bad").expect(DONE)
    rekeeper.wait_for_state("m3", "COMPLETED")
    is_left_out(two, "m3", before)

    proof = Proof(two.directory)
    recorded, ledger = proof.record(), Ledger(two.directory / "ledger.jsonl")
    rekeeper("plan", "m4").expect(DONE)
    two.host("ch-01-1").set_faults({"pattern": "^SYSTEM RESTORE REPLICA .*shop.*bad", **PASSING})
    rekeeper("start", "m4", "--yes").expect(PROBLEMS)
    refused = rekeeper("skip", "m4", "--table", "shop.bad").expect(USAGE)
    assert "forward is the only way" in refused.stderr and "rekeeper retry m4 --table shop.bad" in refused.stderr
    two.host("ch-01-1").clear_faults()
    # Finished by hand with the statements that are printed; what is found is accounted for.
    (problem,) = rekeeper("problems", "m4", "-o", "json").expect(DONE).json
    assert problem["code"] == "RESTORE_FAILED" and problem["host"] == "ch-01-1"
    assert "SYSTEM RESTORE REPLICA `shop`.`bad`" in problem["by_hand"]
    for statement in problem["by_hand"]:
        assert statement in rekeeper("problems", "m4").stdout
        two.host("ch-01-1").query(statement)
    rekeeper("retry", "m4").expect(DONE)
    rekeeper.wait_for_state("m4", "COMPLETED")
    assert report(proof.check(recorded, ledger))
    rekeeper("skip", "m4", "--table", "shop.bad").expect(USAGE)
