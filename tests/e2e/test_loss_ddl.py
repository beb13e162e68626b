"""Definitions that change, mutations and queue entries that are not finished: first what bare statements make of them,
then Rekeeper, which lets them finish, or stops before anything is deleted and names the table."""

import contextlib

import pytest
from clickhouse import StatementFailed
from processes import wait_for
from programs import BLOCKED, DONE
from rig import Cluster

SETTINGS = "SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"


@pytest.fixture(scope="module")
def cluster():
    """Two replicas with Rekeeper; each test has a database and a migration of its own."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.start_rekeeper()
        yield cluster


@pytest.fixture
def database(cluster, request):
    """The database of a test on both hosts."""
    name = request.node.name.removeprefix("test_").replace("[", "_").replace("]", "").replace("-", "_")
    cluster.query_all(f"CREATE DATABASE {name}")
    yield name
    for host in cluster.hosts:
        host.clear_faults()
    cluster.query_all(f"DROP DATABASE IF EXISTS {name} SYNC")


def create(cluster: Cluster, database: str, table: str) -> str:
    """Two parts of a row each, on both replicas."""
    name = f"{database}.{table}"
    for host in cluster.hosts:
        host.query(
            f"CREATE TABLE {name} (id UInt64, v UInt64)"
            f" ENGINE = ReplicatedMergeTree('/{database}/{table}', '{{replica}}') ORDER BY id {SETTINGS}"
        )
    for number in range(2):
        cluster.hosts[0].query(f"INSERT INTO {name} VALUES ({number}, 0)")
    cluster.hosts[1].query(f"SYSTEM SYNC REPLICA {name}")
    return name


def rows(host, name: str) -> list[list[str]]:
    """All rows with all columns, in order; none of a table that the host has not."""
    return host.query(f"SELECT * FROM {name} ORDER BY id")


def restored_by_hand(cluster: Cluster, name: str, first) -> None:
    """Bare statements: detach, delete, attach, restore, in the order that begins with `first`."""
    database, table = name.split(".")
    cluster.query_all(f"DETACH TABLE {name} PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete(f"/{database}/{table}", recursive=True)
    cluster.query_all(f"ATTACH TABLE {name}")
    exception = "SELECT zookeeper_exception FROM system.replicas WHERE"
    exception += f" database = '{database}' AND table = '{table}'"
    for host in sorted(cluster.hosts, key=lambda host: host is not first):
        wait_for(lambda host=host: "No node" in host.value(exception), f"{name} to be without metadata")
        host.query(f"SYSTEM RESTORE REPLICA {name}")
    for host in cluster.hosts:
        host.query(f"SYSTEM SYNC REPLICA {name} LIGHTWEIGHT")


def blocked(cluster: Cluster, migration: str, name: str) -> set[str]:
    """The codes that keep the table from being planned; each with a remedy."""
    document = cluster.rekeeper("plan", migration, "--table", name, "-o", "json").expect(BLOCKED).json
    assert all(finding["table"] == name and finding["fix"] for finding in document["blockers"]), document["blockers"]
    return {finding["code"] for finding in document["blockers"]}


def migrated(cluster: Cluster, migration: str, name: str) -> None:
    """Plan and carry out; all replicas are restored."""
    plan = lambda: cluster.rekeeper("plan", migration, "--table", name, "--restart", "never")  # noqa: E731
    wait_for(lambda: plan().code == DONE, "what was under way to be finished everywhere", timeout=30)
    cluster.rekeeper("start", migration, "--yes").expect(DONE)
    assert cluster.rekeeper.status(migration)["state"] == "COMPLETED"


def test_half_applied_alter(cluster, database):
    """One replica has a new column and a row in it, the other has neither yet."""
    first, second = cluster.hosts
    bare, name = create(cluster, database, "bare"), create(cluster, database, "t")
    for table in (bare, name):
        second.query(f"SYSTEM STOP REPLICATION QUEUES {table}")
        first.query(f"ALTER TABLE {table} ADD COLUMN w UInt64 DEFAULT 7 SETTINGS alter_sync = 1")
        first.query(f"INSERT INTO {table} VALUES (2, 0, 33)")
    whole = rows(first, bare)
    restored_by_hand(cluster, bare, first=second)
    assert rows(first, bare) != whole and "w" not in columns(second, bare), "nothing is lost: nothing is shown"

    assert "DEFINITIONS_DIFFER" in blocked(cluster, database, name)
    assert rows(first, name) == whole
    second.query(f"SYSTEM START REPLICATION QUEUES {name}")
    wait_for(lambda: rows(second, name) == whole, "the ALTER to be finished")
    migrated(cluster, database, name)
    assert [rows(host, name) for host in cluster.hosts] == [whole] * 2


def columns(host, name: str) -> list[str]:
    """Of the table as the host has it."""
    return [row[0] for row in host.query(f"DESCRIBE TABLE {name}")]


# Which statement is held where, before it is executed, and where the ALTER arrives then.
MOMENTS = {
    "between-sync-and-detach": ("DETACH TABLE", [0, 1], 0),
    "between-detach-and-detach": ("DETACH TABLE", [1], 1),
    "between-restore-and-restore": ("SYSTEM RESTORE REPLICA", [1], 0),
}


@contextlib.contextmanager
def held(cluster: Cluster, migration: str, statement: str, hosts: list):
    """A migration that stands before the statement on the hosts."""
    seen = {host.name: len(host.query_log("held")) for host in hosts}
    for host in hosts:
        host.set_faults({"pattern": f"^{statement} .*{migration}", "wait": True})
    out = cluster.directory / f"{migration}.out"
    following = cluster.rekeeper.background("start", migration, "--yes", output=out)
    try:
        for host in hosts:
            arrived = lambda host=host: host.query_log("held")[seen[host.name] :]  # noqa: E731
            wait_for(arrived, lambda: f"{cluster.rekeeper('status', migration)}", timeout=60)
        yield
        for host in hosts:
            host.clear_faults()
        assert following.wait(timeout=150) == DONE, cluster.rekeeper("problems", migration)
    finally:
        following.terminate()
        following.wait()


@pytest.mark.parametrize("moment", MOMENTS)
def test_alter(cluster, database, moment):
    """An ALTER and a row in the new column that arrive in the middle are on both replicas in the end."""
    statement, numbers, at = MOMENTS[moment]
    name = create(cluster, database, "t")
    hosts = [cluster.hosts[number] for number in numbers]
    cluster.rekeeper("plan", database, "--table", name, "--restart", "never").expect(DONE)
    with held(cluster, database, statement, hosts):
        user = cluster.hosts[at]
        if moment == "between-detach-and-detach":
            wait_for(lambda: is_detached(cluster.hosts[0], name), "the other replica to be detached")
        user.query(f"ALTER TABLE {name} ADD COLUMN w UInt64 DEFAULT 7 SETTINGS alter_sync = 1")
        user.query(f"INSERT INTO {name} VALUES (2, 0, 33)")
    for host in cluster.hosts:
        assert rows(host, name) == [["0", "0", "7"], ["1", "0", "7"], ["2", "0", "33"]], host.name


def is_detached(host, name: str) -> bool:
    """Whether the host has it no more."""
    try:
        rows(host, name)
    except StatementFailed as refused:
        return refused.code == 60
    return False


def test_unfinished_mutation(cluster, database):
    """An UPDATE that was accepted and not carried out is forgotten with the metadata."""
    bare, name = create(cluster, database, "bare"), create(cluster, database, "t")
    for table in (bare, name):
        cluster.query_all(f"SYSTEM STOP MERGES {table}")
        cluster.hosts[0].query(f"ALTER TABLE {table} UPDATE v = 5 WHERE 1 SETTINGS mutations_sync = 0")
    restored_by_hand(cluster, bare, first=cluster.hosts[0])
    cluster.query_all(f"SYSTEM START MERGES {bare}")
    database_, table_ = bare.split(".")
    left = f"SELECT count() FROM system.mutations WHERE database = '{database_}' AND table = '{table_}'"
    assert cluster.hosts[0].value(left) == "0" and rows(cluster.hosts[0], bare)[0] == ["0", "0"]

    assert "MUTATIONS_UNFINISHED" in blocked(cluster, database, name)
    cluster.query_all(f"SYSTEM START MERGES {name}")
    after = [["0", "5"], ["1", "5"]]
    for host in cluster.hosts:
        wait_for(lambda host=host: rows(host, name) == after, "the mutation to be finished")
    migrated(cluster, database, name)
    assert [rows(host, name) for host in cluster.hosts] == [after] * 2


def test_fetch_that_cannot_be_done(cluster, database):
    """A row that the second replica cannot fetch: it is waited for, and nothing is detached meanwhile."""
    first, second = cluster.hosts
    bare, name = create(cluster, database, "bare"), create(cluster, database, "t")
    for table in (bare, name):
        second.query(f"SYSTEM STOP FETCHES {table}")
        first.query(f"INSERT INTO {table} VALUES (2, 0)")
    restored_by_hand(cluster, bare, first=second)
    assert len(rows(first, bare)) == 2, "nothing is lost: nothing is shown"

    cluster.rekeeper("plan", database, "--table", name, "--restart", "never").expect(DONE)
    following = cluster.rekeeper.background("start", database, "--yes", output=cluster.directory / "start.out")
    try:

        def waits() -> bool:
            status = cluster.rekeeper.status(database)
            return "sync" in (status["waiting_for"] or "") and "queued" in status["waiting_for"]

        wait_for(waits, lambda: f"{cluster.rekeeper.status(database)['waiting_for']}", timeout=60)
        assert len(rows(first, name)) == 3 and len(rows(second, name)) == 2
        assert {table["status"] for table in cluster.rekeeper.status(database)["tables"]} == {"INIT"}
        second.query(f"SYSTEM START FETCHES {name}")
        assert following.wait(timeout=100) == DONE
    finally:
        following.terminate()
        following.wait()
    assert [len(rows(host, name)) for host in cluster.hosts] == [3, 3]
