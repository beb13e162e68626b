"""What users and servers do between RESTORE and the account of the parts: first what bare statements make of it, then
Rekeeper, which brings every row back, brings none back that was dropped, or says what to do."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clickhouse import quoted
from kazoo.exceptions import NoNodeError
from processes import wait_for
from programs import DONE, PROBLEMS
from rig import Cluster

FIRST, SECOND = "ch-01-1", "ch-01-2"
NO_MERGES = "SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"
# Engines for which the later part is the newer one: engine, columns, what row k holds in insert number i.
ORDERED = {
    "replacing": ("ReplicatedReplacingMergeTree", "k UInt64, v Int64", "{i}"),
    "aggregating": ("ReplicatedAggregatingMergeTree", "k UInt64, v SimpleAggregateFunction(anyLast, Int64)", "{i}"),
    "collapsing": ("ReplicatedCollapsingMergeTree", "k UInt64, v Int64, sign Int8", "{i}, if({i} % 2, -1, 1)"),
}
INSERTS = 6


@pytest.fixture(scope="module")
def cluster():
    """Two replicas with Rekeeper; each test has a database and a migration of its own."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.start_rekeeper()
        yield cluster


@pytest.fixture
def database(cluster, request):
    """The database of a test on both hosts."""
    name = request.node.name.removeprefix("test_").partition("[")[0]
    cluster.query_all(f"CREATE DATABASE {name}")
    yield name
    for host in cluster.hosts:
        host.clear_faults()
    cluster.query_all(f"DROP DATABASE IF EXISTS {name} SYNC")


def partitioned(cluster: Cluster, database: str, table: str) -> str:
    """Three partitions of three parts with a row each, the same on both replicas."""
    name = f"{database}.{table}"
    for host in cluster.hosts:
        host.query(
            f"CREATE TABLE {name} (p UInt8, id UInt64)"
            f" ENGINE = ReplicatedMergeTree('/{database}/{table}', '{{replica}}')"
            f" PARTITION BY p ORDER BY id {NO_MERGES}"
        )
    for number in range(9):
        cluster.hosts[0].query(f"INSERT INTO {name} VALUES ({number % 3}, {number})")
    cluster.hosts[1].query(f"SYSTEM SYNC REPLICA {name}")
    return name


def ids(host, name: str) -> list[int]:
    """All rows, in order."""
    return [int(row[0]) for row in host.query(f"SELECT id FROM {name} ORDER BY id")]


def without_metadata(cluster: Cluster, name: str) -> None:
    """By bare statements: detached, its nodes deleted, attached read-only."""
    database, table = name.split(".")
    cluster.query_all(f"DETACH TABLE {name} PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete(f"/{database}/{table}", recursive=True)
    cluster.query_all(f"ATTACH TABLE {name}")
    for host in cluster.hosts:
        wait_for(lambda host=host: "No node" in exception(host, name), f"{name} to be without metadata")


def exception(host, name: str) -> str:
    """What the server says of the metadata of a table."""
    database, table = name.split(".")
    of = f"database = '{database}' AND table = '{table}'"
    return host.value(f"SELECT zookeeper_exception FROM system.replicas WHERE {of}")


def detached(host, name: str) -> list[str]:
    """The folders under `detached/`."""
    database, table = name.split(".")
    rows = host.query(f"SELECT name FROM system.detached_parts WHERE database = '{database}' AND table = '{table}'")
    return sorted(row[0] for row in rows)


class Held:
    """A migration that stands where the server holds a statement: a user does what is done within."""

    def __init__(self, cluster: Cluster, database: str, host: str, pattern: str, after: bool):
        self.cluster, self.name, self.host = cluster, database, cluster.host(host)
        self.rule = {"pattern": pattern, "wait": True, "after": after}

    def __enter__(self):
        rekeeper = self.cluster.rekeeper
        rekeeper("plan", self.name, "--database", self.name, "--restart", "never").expect(DONE)
        before = len(self.host.query_log("held"))
        self.host.set_faults(self.rule)
        out = self.cluster.directory / f"{self.name}.out"
        self.following = rekeeper.background("start", self.name, "--yes", output=out)
        wait_for(lambda: self.host.query_log("held")[before:], lambda: f"{rekeeper('status', self.name)}", timeout=60)
        return self

    def __exit__(self, *failure) -> None:
        self.host.clear_faults()
        if failure[0]:
            self.following.terminate()
        self.code = self.following.wait(timeout=150)


def completed(cluster: Cluster, name: str) -> None:
    """The migration is, with every table restored."""
    status = cluster.rekeeper.status(name)
    problems = [table["problem"] for table in status["tables"]]
    assert status["state"] == "COMPLETED" and problems == [None] * len(problems), problems


def fates(cluster: Cluster, name: str, host: str) -> dict[str, int]:
    """How many parts have which fate on a host."""
    (table,) = [t for t in cluster.rekeeper("report", name, "-o", "json").json["tables"] if t["host"] == host]
    return table["fates"]


def test_dropped_meanwhile(cluster, database):
    """Partitions and parts that a user drops or detaches after RESTORE do not come back; nothing else is missing."""
    bare, name = partitioned(cluster, database, "bare"), partitioned(cluster, database, "t")
    first, second = cluster.hosts
    without_metadata(cluster, bare)
    saved = {row[0] for row in second.query(f"SELECT DISTINCT _part FROM {bare}")}
    first.query(f"SYSTEM RESTORE REPLICA {bare}")
    first.query(f"ALTER TABLE {bare} DROP PARTITION 0")
    second.query(f"SYSTEM RESTORE REPLICA {bare}")
    second.query(f"SYSTEM SYNC REPLICA {bare} LIGHTWEIGHT")
    # What a script does that attaches the parts which it wrote down and does not find any more.
    for part in saved & set(detached(second, bare)):
        second.query(f"ALTER TABLE {bare} ATTACH PART '{part}'")
    assert {0, 3, 6} <= set(ids(second, bare)), "the bare statements bring nothing back: nothing is shown"
    cluster.query_all(f"DROP TABLE {bare} SYNC")

    with Held(cluster, database, FIRST, f"^SYSTEM RESTORE REPLICA .*{database}", after=True) as held:
        first.query(f"ALTER TABLE {name} DROP PARTITION 0")
        first.query(f"ALTER TABLE {name} DROP PART '1_1_1_0'")
        # The folder gets a name that a part of the manifest had.
        first.query(f"ALTER TABLE {name} DETACH PART '2_1_1_0'")
        first.query(f"INSERT INTO {name} VALUES (2, 100), (0, 101)")
    assert held.code == DONE
    completed(cluster, database)
    for host in cluster.hosts:
        assert ids(host, name) == [1, 2, 7, 8, 100, 101], host.name
    assert fates(cluster, database, FIRST) == {"active": 4, "dropped": 5}
    assert "2_1_1_0" in detached(first, name)


def test_dropped_and_forgotten(cluster, database):
    """Dropped before the follower's turn, and the log has forgotten it: the reference does not have it either."""
    name, (first, second) = partitioned(cluster, database, "t"), cluster.hosts
    path = f"/{database}/t/log"
    with Held(cluster, database, SECOND, f"^SYSTEM RESTORE REPLICA .*{database}", after=False) as held:
        first.query(f"ALTER TABLE {name} DROP PARTITION 0")
        for number in range(12):
            first.query(f"INSERT INTO {name} VALUES (9, {100 + number})")

        def is_forgotten() -> bool:
            # It makes the server look what it may forget.
            first.query(f"INSERT INTO {name} VALUES (8, 8)")
            first.query(f"ALTER TABLE {name} DROP PARTITION 8")
            with cluster.zookeeper.client() as client:
                entries = [content(client, f"{path}/{entry}") for entry in client.get_children(path)]
            return not any("\n0_0_" in entry for entry in entries)

        wait_for(is_forgotten, "the log to forget the entry", timeout=25)
    assert held.code == DONE
    completed(cluster, database)
    for host in cluster.hosts:
        assert ids(host, name) == [1, 2, 4, 5, 7, 8, *range(100, 112)], host.name
    assert fates(cluster, database, SECOND)["gone"] == 3


def content(client, node: str) -> str:
    """Nothing of a node that is gone."""
    try:
        return client.get(node)[0].decode()
    except NoNodeError:
        return ""


def ordered(cluster: Cluster, database: str, kind: str, prefix: str = "") -> str:
    """A table whose rows 0 to 4 are written six times over."""
    engine, columns, values = ORDERED[kind]
    name = f"{database}.{prefix}{kind}"
    sign = ", sign" if "sign" in columns else ""
    for host in cluster.hosts:
        host.query(
            f"CREATE TABLE {name} ({columns}) ENGINE = {engine}('/{database}/{prefix}{kind}', '{{replica}}'{sign})"
            f" ORDER BY k {NO_MERGES}"
        )
    for i in range(INSERTS):
        cluster.hosts[0].query(f"INSERT INTO {name} SELECT number, {values.format(i=i)} FROM numbers(5)")
    cluster.hosts[1].query(f"SYSTEM SYNC REPLICA {name}")
    return name


def seen(host, name: str) -> list:
    """What a reader sees."""
    return host.query(f"SELECT * FROM {name} FINAL ORDER BY ALL")


def folder(host, name: str) -> Path:
    """Where the server keeps a table."""
    database, table = name.split(".")
    of = f"database = '{database}' AND name = '{table}'"
    return Path(host.value(f"SELECT data_paths[1] FROM system.tables WHERE {of}"))


def cut_while_moving(host, tables: list[str]) -> None:
    """The server killed while RESTORE moved parts: it moves the first ones first (seen on the real engine)."""
    folders = [folder(host, name) for name in tables]
    host.kill()
    host.clear_faults()
    for path in folders:
        parts = sorted(part for part in path.iterdir() if part.name.startswith("all_"))
        assert len(parts) == INSERTS
        for part in parts[: INSERTS // 2]:
            shutil.move(part, path / "detached" / part.name)
    host.start()


def cut_while_attaching(cluster: Cluster, name: str, left: list[str]) -> None:
    """As if the server had been killed before RESTORE attached the parts `left`."""
    first, path = cluster.hosts[0], folder(cluster.hosts[0], name)
    first.kill()
    first.clear_faults()
    with cluster.zookeeper.client() as client:
        for part in left:
            (path / part).rename(path / "detached" / part)
            client.delete(f"/{name.replace('.', '/')}/replicas/r1/parts/{part}")
    first.start()


def test_order_of_a_cut_restore(cluster, database):
    """Of parts of which the later is the newer, those come back last that RESTORE had moved first."""
    first = cluster.hosts[0]
    bare = [ordered(cluster, database, kind, "bare_") for kind in ORDERED]
    expected = {name: seen(first, name) for name in bare}
    for name in bare:
        without_metadata(cluster, name)
    cut_while_moving(first, bare)
    for name in bare:
        wait_for(lambda name=name: "No node" in exception(first, name), "no metadata")
        first.query(f"SYSTEM RESTORE REPLICA {name}")
        for part in detached(first, name):
            first.query(f"ALTER TABLE {name} ATTACH PART '{part}'")
        print(name, expected[name][:1], seen(first, name)[:1])
        assert seen(first, name) != expected[name], "the bare statements keep the order: nothing is shown"
        cluster.query_all(f"DROP TABLE {name} SYNC")

    tables = [ordered(cluster, database, kind) for kind in ORDERED]
    expected = {name: seen(first, name) for name in tables}
    with Held(cluster, database, FIRST, f"^SYSTEM RESTORE REPLICA .*{database}", after=False) as held:
        wait_for(lambda: len({r["sql"] for r in first.query_log("held") if database in r["sql"]}) == len(tables), "all")
        cut_while_moving(first, tables)
    assert held.code == DONE
    completed(cluster, database)
    for host in cluster.hosts:
        for name in tables:
            assert seen(host, name) == expected[name], (host.name, name)


def test_written_before_leftovers(cluster, database):
    """A newer row, written while leftovers were not attached yet, would lose: said, with the statements."""
    first = cluster.hosts[0]
    name = ordered(cluster, database, "replacing")
    with Held(cluster, database, FIRST, f"^SYSTEM RESTORE REPLICA .*{database}", after=True) as held:
        first.query(f"INSERT INTO {name} VALUES (0, 1000)")
        cut_while_attaching(cluster, name, ["all_4_4_1", "all_5_5_1"])
    assert held.code == PROBLEMS
    tables = cluster.rekeeper.status(database)["tables"]
    (problem,) = [table["problem"] for table in tables if table["host"] == FIRST]
    print(problem["message"])
    assert problem["code"] == "PARTS_OUT_OF_ORDER"
    assert seen(first, name)[0] == ["0", "5"], "the older row does not win: nothing is shown"
    table = ".".join(quoted(word) for word in name.split("."))
    statements = problem["message"].partition(": ")[2].split("; ")
    assert all(statement.startswith(f"ALTER TABLE {table} ") for statement in statements)
    for statement in statements:
        first.query(statement)
    cluster.rekeeper("retry", database).expect(DONE, PROBLEMS)
    cluster.rekeeper.wait_for_state(database, "COMPLETED", timeout=60)
    for host in cluster.hosts:
        assert seen(host, name) == [["0", "1000"], *([str(k), "5"] for k in range(1, 5))], host.name


# What users do with a table meanwhile, and the rows that are left then.
CHANGED = {
    "merged": ("ReplicatedMergeTree", "", "OPTIMIZE TABLE {t} FINAL", [0, 1, 2, 3]),
    "folded": ("ReplicatedReplacingMergeTree", "", "OPTIMIZE TABLE {t} FINAL", [0, 1, 2, 3]),
    "expired": ("ReplicatedMergeTree", "TTL at + INTERVAL 1 DAY", "OPTIMIZE TABLE {t} FINAL", [0, 2]),
    "deleted": ("ReplicatedMergeTree", "", "ALTER TABLE {t} DELETE WHERE id % 2 SETTINGS mutations_sync = 1", [0, 2]),
}


def changing(cluster: Cluster, database: str, kind: str, prefix: str = "") -> str:
    """A table of four parts with a row each, of which every other one is long past."""
    engine, clause, _, _ = CHANGED[kind]
    name = f"{database}.{prefix}{kind}"
    for host in cluster.hosts:
        host.query(
            f"CREATE TABLE {name} (id UInt64, at DateTime)"
            f" ENGINE = {engine}('/{database}/{prefix}{kind}', '{{replica}}') ORDER BY id {clause} {NO_MERGES}"
        )
    cluster.query_all(f"SYSTEM STOP MERGES {name}")
    for number in range(4):
        at = "'2020-01-01 00:00:00'" if number % 2 else "now()"
        cluster.hosts[0].query(f"INSERT INTO {name} SELECT {number}, {at}")
    cluster.hosts[1].query(f"SYSTEM SYNC REPLICA {name} LIGHTWEIGHT")
    return name


def change(host, kind: str, name: str) -> None:
    """Do what is done with such a table. An agent that looks at it stops its merges, and OPTIMIZE waits for them."""
    _, _, statement, left = CHANGED[kind]
    with ThreadPoolExecutor() as pool:
        changed = pool.submit(host.query, statement.format(t=name))

        def is_done() -> bool:
            host.query(f"SYSTEM START MERGES {name}")
            return changed.done()

        wait_for(is_done, lambda: f"{name} to be {kind}", timeout=100)
    changed.result()
    assert ids(host, name) == left, kind


def merge(host, name: str) -> None:
    """Order a merge of everything, and do not wait for it."""
    host.query(f"OPTIMIZE TABLE {name} FINAL SETTINGS alter_sync = 0")


def parts(host, name: str) -> int:
    """How many are active."""
    database, table = name.split(".")
    of = f"database = '{database}' AND table = '{table}'"
    return int(host.value(f"SELECT count() FROM system.parts WHERE active AND rows > 0 AND {of}"))


def is_put_off(host, name: str) -> bool:
    """Whether a merge was ordered, and the server did not begin it."""
    database, table = name.split(".")
    of = f"database = '{database}' AND table = '{table}' AND type = 'MERGE_PARTS'"
    return int(host.value(f"SELECT max(num_postponed) FROM system.replication_queue WHERE {of}")) > 0


def test_merges_meanwhile(cluster, database):
    """A server that is started by somebody starts merges; those of a table that is not accounted for stop again."""
    bare, name = partitioned(cluster, database, "bare"), partitioned(cluster, database, "t")
    first, second = cluster.hosts
    cluster.query_all(f"SYSTEM STOP MERGES {bare}")
    merge(first, bare)
    refused = {"code": 497, "message": "Not enough privileges"}
    second.set_faults({"pattern": f"^SYSTEM RESTORE REPLICA .*{database}", **refused})
    cluster.rekeeper("plan", database, "--table", name, "--restart", "never").expect(DONE)
    cluster.rekeeper("start", database, "--yes").expect(PROBLEMS)
    said = " ".join(cluster.rekeeper("problems", database).stdout.replace(" | ", " ").split())
    assert f"SYSTEM START MERGES `{database}`.`t`" in said
    assert parts(first, bare) == parts(first, name) == 9
    seen = len(first.query_log())
    first.restart()
    wait_for(lambda: parts(first, bare) == 3, "the start to start merges of the bare table", timeout=60)

    def is_stopped() -> bool:
        return any(r["sql"].startswith(f"SYSTEM STOP MERGES `{database}`.`t`") for r in first.query_log()[seen:])

    wait_for(is_stopped, "merges to be stopped again", timeout=30)
    merge(first, name)
    wait_for(lambda: is_put_off(first, name), "the merge to be put off", timeout=30)
    assert parts(first, name) == 9
    second.clear_faults()
    cluster.rekeeper("retry", database).expect(DONE, PROBLEMS)
    cluster.rekeeper.wait_for_state(database, "COMPLETED", timeout=60)
    for host in cluster.hosts:
        wait_for(lambda host=host: parts(host, name) == 3, "merges to run again", timeout=60)
        assert ids(host, name) == list(range(9))
    # Once it is over, a start is nobody's business.
    assert list(cluster.directory.glob("agent-*/state/**/*.held")) == []


def test_changed_meanwhile(cluster, database):
    """What was merged, expired or deleted on the reference after RESTORE is accounted for, and nothing comes back."""
    first, second = cluster.hosts
    bare = changing(cluster, database, "deleted", "bare_")
    saved = {row[0] for row in second.query(f"SELECT DISTINCT _part FROM {bare}")}
    without_metadata(cluster, bare)
    first.query(f"SYSTEM RESTORE REPLICA {bare}")
    change(first, "deleted", bare)
    second.query(f"SYSTEM RESTORE REPLICA {bare}")
    second.query(f"SYSTEM SYNC REPLICA {bare} LIGHTWEIGHT")
    for part in saved & set(detached(second, bare)):
        # Up to 25.8 it takes the part for the one that it was, and says OK without attaching it.
        second.query(f"ALTER TABLE {bare} ATTACH PART '{part}' SETTINGS insert_deduplicate = 0")
    assert ids(second, bare) != CHANGED["deleted"][3], "the bare statements bring nothing back: nothing is shown"
    cluster.query_all(f"DROP TABLE {bare} SYNC")

    names = {kind: changing(cluster, database, kind) for kind in CHANGED}
    assert all(ids(first, name) == [0, 1, 2, 3] for name in names.values())
    with Held(cluster, database, FIRST, f"^SYSTEM RESTORE REPLICA .*{database}", after=True) as held:
        wait_for(lambda: len({r["sql"] for r in first.query_log("held") if database in r["sql"]}) == len(names), "all")
        for kind, name in names.items():
            change(first, kind, name)
            first.query(f"INSERT INTO {name} SELECT 9, now()")
    assert held.code == DONE
    completed(cluster, database)
    for host in cluster.hosts:
        for kind, name in names.items():
            assert ids(host, name) == [*CHANGED[kind][3], 9], (host.name, kind)


def test_replica_restarted_by_somebody(cluster, database):
    """It starts merges, and tells nobody. One that runs long enough to be seen is cut off; short ones are accounted for."""
    first, second = cluster.hosts
    names = {kind: f"{database}.{kind}" for kind in ("short", "long")}
    for kind, name in names.items():
        for host in cluster.hosts:
            host.query(
                f"CREATE TABLE {name} (id UInt64, text String) ENGINE = ReplicatedMergeTree('/{database}/{kind}', '{{replica}}')"
                " ORDER BY sipHash64(id)"
            )
        cluster.query_all(f"SYSTEM STOP MERGES {name}")
        rows = 1_000_000 if kind == "long" else 10
        for number in range(4):
            first.query(
                f"INSERT INTO {name} SELECT number + {number * rows}, randomPrintableASCII(200) FROM numbers({rows})"
                f" SETTINGS max_insert_threads = 1, min_insert_block_size_rows = {rows}, max_insert_block_size = {rows},"
                " min_insert_block_size_bytes = 0"
            )
        second.query(f"SYSTEM SYNC REPLICA {name} LIGHTWEIGHT")
        assert parts(first, name) == 4
    refused = {"code": 497, "message": "Not enough privileges"}
    second.set_faults({"pattern": f"^SYSTEM RESTORE REPLICA .*{database}", **refused})
    cluster.rekeeper("plan", database, "--database", database, "--restart", "never").expect(DONE)
    cluster.rekeeper("start", database, "--yes").expect(PROBLEMS)
    seen = len(first.query_log())
    for name in names.values():
        first.query(f"SYSTEM RESTART REPLICA {name}")
        merge(first, name)

    def stopped() -> bool:
        return any(r["sql"] == f"SYSTEM STOP MERGES `{database}`.`long`" for r in first.query_log()[seen:])

    wait_for(stopped, "merges to be stopped again", timeout=30)
    wait_for(lambda: is_put_off(first, names["long"]), "the merge to be put off", timeout=60)
    print({name: parts(first, name) for name in names.values()})
    assert parts(first, names["long"]) == 4
    second.clear_faults()
    cluster.rekeeper("retry", database).expect(DONE, PROBLEMS)
    cluster.rekeeper.wait_for_state(database, "COMPLETED", timeout=120)
    completed(cluster, database)
    for kind, name in names.items():
        for host in cluster.hosts:
            count = host.query(f"SELECT count(), uniqExact(id) FROM {name}")
            assert count == [["4000000"] * 2 if kind == "long" else ["40"] * 2], (host.name, kind)
