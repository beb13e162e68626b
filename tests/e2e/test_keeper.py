"""ClickHouse Keeper, as far as a stand-in in front of ZooKeeper speaks like it: agents reach it, servers do not."""

import threading

import pytest
import tables
from keeper import CONNECTION_LOSS, OPERATION_TIMEOUT, Keeper, Version
from programs import BLOCKED, DONE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger, Writer

VERSIONS = [Version("22.8"), Version("25.3"), Version("25.8"), Version("26.7"), Version("26.7", create2=True)]
TABLES = [Table("shop", "plain"), Table("shop", "partitioned", partition="toInt8(id % 3) - 1")]
PASSWORD = "of the handshake"  # As long as there is room for one.
MULTI, WRITES, READS = 14, {1, 2, 5, 7, 14}, {3, 4, 6, 8, 12, 22}


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper behind a Keeper, whose version each test sets."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), TABLES)
        cluster.keeper = Keeper(cluster.zookeeper.port, Version("25.8"), PASSWORD)
        cluster.start_rekeeper(cluster.keeper, password=PASSWORD)
        yield cluster
        cluster.keeper.close()


@pytest.fixture(autouse=True)
def without_keepers_faults(cluster):
    """A case leaves none to the next one."""
    yield
    cluster.keeper.faults.clear()


@pytest.fixture
def proved(cluster):
    """What the tables hold is the same afterwards."""
    proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
    before = proof.record()
    yield
    assert report(proof.check(before, ledger))


def migrate(cluster: Cluster, name: str, *faults) -> None:
    """A whole migration, with faults from its start on."""
    cluster.rekeeper("plan", name, "--restart", "never").expect(DONE)
    made = [cluster.keeper.fail(*fault) for fault in faults]
    cluster.rekeeper("start", name, "--yes").expect(DONE)
    assert cluster.rekeeper.status(name)["state"] == "COMPLETED"
    assert all(fault.hit for fault in made), made


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"{v.name}{'-create2' if v.create2 else ''}")
def test_a_migration(cluster, proved, version):
    """Sessions that began with another version go on: nothing that Keeper does not know is sent in them."""
    cluster.keeper.version = version
    cluster.keeper.ended.clear()
    cluster.keeper.drop_connections()
    migrate(cluster, f"with-{version.name}-{version.create2}".replace(".", "-"))
    # Before 22.10 multiRead is tried once by each session.
    assert set(cluster.keeper.ended) <= ({"Operation 22 is unknown"} if version.number < (22, 10) else set())


def test_a_plan_says_that_it_is_one(cluster):
    cluster.keeper.version = Version("25.8")
    plan = cluster.rekeeper("plan", "told", "-o", "json").expect(DONE).json
    (told,) = (w["message"] for w in plan["warnings"] if w["code"] == "ENSEMBLE_UNTESTED")
    assert told == f"127.0.0.1:{cluster.keeper.port} is ClickHouse Keeper 25.8.1.1"


@pytest.mark.parametrize("error", [CONNECTION_LOSS, OPERATION_TIMEOUT])
@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
def test_errors_on_a_connection_that_lives(cluster, proved, error, applied):
    """Each step meets one of its own: with the marker, a deletion, the witness, versions; and reads."""
    cluster.keeper.version = Version("25.8")
    patterns = ["rekeeper", "shop/plain/replicas", "shop/partitioned/log"]
    migrate(
        cluster,
        f"errors{error}-{'applied' if applied else 'not'}",
        *((WRITES, pattern, error, applied) for pattern in patterns),
        (READS, "rekeeper-", error, False),
    )


def test_every_reconnect_is_a_new_session(cluster, proved):
    """All connections end again and again, and what a session held is not taken for the next one's."""
    done = threading.Event()

    def drop() -> None:
        while not done.wait(1.5):
            cluster.keeper.drop_connections()

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    try:
        migrate(cluster, "reconnects")
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("version", [Version("25.3"), Version("25.8")], ids=lambda v: v.name)
def test_a_table_that_is_written_to(cluster, version):
    """25.8 keeps the permissions that freeze a log; 25.3 keeps none for everybody, which is said, and the table is in service."""
    cluster.keeper.version = version
    cluster.keeper.drop_connections()
    name = f"written-{version.name}".replace(".", "-")
    proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / f"{name}.jsonl")
    before = proof.record()
    cluster.rekeeper("plan", name, "--restart", "never").expect(DONE)
    with Writer(cluster.shards(), [("shop", "plain")], ledger) as writer:
        writer.wait_for_inserts(10)
        ended = cluster.rekeeper("start", name, "--yes")
    if ended.code != DONE:
        problems = cluster.rekeeper("problems", name, "-o", "json").json
        told = {problem["message"] for problem in problems if problem["code"] == "FREEZE_FAILED"}
        assert len(told) == 1 and "did not keep them" in told.pop(), problems
        assert version.number < (25, 7)
        cluster.rekeeper("retry", name)
        cluster.rekeeper.wait_for_state(name, "COMPLETED", timeout=60)
    assert report(proof.check(before, ledger))


@pytest.mark.parametrize("password", ["", "of another server"[:16]], ids=["missing", "wrong"])
def test_a_password_that_is_not_keepers(cluster, password):
    """Keeper says nothing, so the plan does: what it may be, and never the password."""
    agent = cluster.agents["ch-01-1"]
    agent.use_zookeeper(cluster.keeper.port, password)
    agent.restart()
    cluster.rekeeper.wait_for_agents(*cluster.agents)
    try:
        refused = cluster.rekeeper("plan", "password", "--restart", "never", "-o", "json").expect(BLOCKED)
        told = {finding["message"] for finding in refused.json["blockers"] if finding["code"] == "ZOOKEEPER_UNREACHABLE"}
        assert told and all("<password>" in message for message in told), refused
        assert not password or password not in refused.stdout + refused.stderr
    finally:
        agent.use_zookeeper(cluster.keeper.port, PASSWORD)
        agent.restart()
        cluster.rekeeper.wait_for_agents(*cluster.agents)
