"""Replicas that do not have the same rows: the bare statements lose or resurrect some, Rekeeper loses none.

Losses 1, 6, 7 and 12. Each case makes two replicas differ by a real accident, shows what the statements of the per-host
script come to, and migrates the same again with Rekeeper.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS
from rig import Cluster

HOSTS = ("ch-01-1", "ch-01-2")
# Nothing that is tried again: the replica is given up, or the table gets its problem, at once.
LASTING = {"code": 497, "message": "Not enough privileges", "times": 1}
FETCH = "SYSTEM {} FETCHES {}"


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard, Rekeeper, and a database for all cases."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


class Pair:
    """One table on all hosts, of which the first two come to differ."""

    def __init__(self, cluster: Cluster, name: str, engine_path: str | None = None):
        self.cluster, self.name = cluster, f"d.{name}"
        self.first, self.second = cluster.hosts[:2]
        self.path = f"/tables/01/d/{name}"
        for host in cluster.hosts:
            path = engine_path if engine_path and host is self.second else self.path
            host.query(
                f"CREATE TABLE {self.name} (p UInt8, id UInt64) ENGINE = ReplicatedMergeTree('{path}', '{{replica}}')"
                " PARTITION BY p ORDER BY id SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1,"
                " max_bytes_to_merge_at_min_space_in_pool = 1"
            )

    def insert(self, host, start: int, rows: int, partition: int = 0) -> None:
        """One part."""
        host.query(f"INSERT INTO {self.name} SELECT {partition}, number + {start} FROM numbers({rows})")

    def sync(self, host) -> None:
        """Let it have all that the others have."""
        host.query(f"SYSTEM SYNC REPLICA {self.name} LIGHTWEIGHT")

    def rows(self) -> list[tuple[int, int]]:
        """Count and number of different ids, on each host."""
        found = [h.query(f"SELECT count(), uniqExact(id) FROM {self.name}") for h in self.cluster.hosts]
        return [(int(count), int(different)) for ((count, different),) in found]

    def accident(self, host, insert: Callable[[], None]) -> None:
        """What is inserted elsewhere never comes to `host`: its order to fetch it is lost."""
        queue = f"{self.path}/replicas/{host.replica}/queue"
        host.query(FETCH.format("STOP", self.name))
        with self.cluster.zookeeper.client() as client:
            before = set(client.get_children(queue))
            insert()
            entries = wait_for(lambda: set(client.get_children(queue)) - before, "the order to fetch", 30)
            host.query(f"DETACH TABLE {self.name} SYNC")
            for entry in entries:
                client.delete(f"{queue}/{entry}")
            host.query(f"ATTACH TABLE {self.name}")
        self.until_writable(host)

    def until_writable(self, host) -> None:
        """Until its session is there."""
        readonly = "SELECT is_readonly FROM system.replicas WHERE concat(database, '.', table) = {t:String}"
        wait_for(lambda: host.value(readonly, t=self.name) == "0", f"{self.name} to be writable", 30)

    def bare(self, order: list) -> list[tuple[int, int]]:
        """What the per-host script does, in this order of the hosts; the rows afterwards."""
        for host in order:
            host.query(f"DETACH TABLE {self.name} PERMANENTLY SYNC")
        with self.cluster.zookeeper.client() as client:
            client.delete(self.path, recursive=True)
        for host in order:
            host.query(f"ATTACH TABLE {self.name}")
        for host in order:
            host.query(f"SYSTEM RESTORE REPLICA {self.name}")
            self.sync(host)
            for cache in ("MARK", "UNCOMPRESSED", "PRIMARY INDEX", "QUERY CONDITION"):
                host.query(f"SYSTEM DROP {cache} CACHE")
        readonly = "SELECT is_readonly FROM system.replicas WHERE concat(database, '.', table) = {t:String}"
        assert [host.value(readonly, t=self.name) for host in order] == ["0", "0"], "and nothing says that anything is wrong"
        found = self.rows()
        for host in order:
            host.query(f"DROP TABLE {self.name} SYNC")
        return found


@dataclass(frozen=True)
class Case:
    """How the replicas come to differ, and what there has to be in the end."""

    name: str
    make: Callable[[Pair], None]
    rows: int
    bare_rows: int
    refused: str = "NOT_SETTLED"
    path_of_second: str | None = None


def one_has_more(pair: Pair) -> None:
    """r2 has 7 rows that r1 never fetched."""
    pair.insert(pair.first, 0, 100)
    pair.sync(pair.second)
    pair.accident(pair.first, lambda: pair.insert(pair.second, 100, 7))


def each_has_more(pair: Pair) -> None:
    """Each has a part that the other has not; one of them is equal to a part that both have."""
    pair.insert(pair.first, 0, 100)
    pair.sync(pair.second)
    pair.accident(pair.first, lambda: pair.insert(pair.second, 100, 7))
    pair.accident(pair.second, lambda: pair.insert(pair.first, 200, 5))


def empty(pair: Pair) -> None:
    """r1 has nothing at all."""
    pair.accident(pair.first, lambda: pair.insert(pair.second, 0, 60))


def split_brain(pair: Pair) -> None:
    """Both have a part of that name, of other rows: two tables that an earlier accident made one."""
    other = f"{pair.path}-of-r2"
    pair.insert(pair.first, 0, 100)
    pair.insert(pair.second, 100, 50)
    pair.second.stop()
    with pair.cluster.zookeeper.client() as client:
        copy(client, f"{other}/replicas/r2", f"{pair.path}/replicas/r2")
        end = max(int(name.removeprefix("log-")) for name in client.get_children(f"{pair.path}/log")) + 1
        client.set(f"{pair.path}/replicas/r2/log_pointer", str(end).encode())
        client.delete(other, recursive=True)
    (definition,) = (pair.second.data / "store").rglob(f"{pair.name.removeprefix('d.')}.sql")
    definition.write_text(definition.read_text().replace(other, pair.path))
    pair.second.start()
    pair.until_writable(pair.second)
    assert pair.rows() == [(100, 100), (50, 50)]


def copy(client, source: str, target: str) -> None:
    """The lasting nodes of a path, at another one."""
    client.ensure_path(target)
    client.set(target, client.get(source)[0])
    for child in client.get_children(source):
        if not client.exists(f"{source}/{child}").ephemeralOwner:
            copy(client, f"{source}/{child}", f"{target}/{child}")


def lagging(pair: Pair) -> None:
    """r1 has not dropped yet what was dropped, and its queue does not move."""
    pair.insert(pair.second, 0, 100, partition=1)
    pair.insert(pair.second, 100, 10)
    pair.sync(pair.first)
    pair.first.query(f"SYSTEM STOP REPLICATION QUEUES {pair.name}")
    pair.second.query(f"ALTER TABLE {pair.name} DROP PARTITION 1")
    queue = "SELECT count() FROM system.replication_queue WHERE concat(database, '.', table) = {t:String}"
    wait_for(lambda: pair.first.value(queue, t=pair.name) != "0", "the order to drop", 30)


CASES = [
    Case("one_has_more", one_has_more, rows=107, bare_rows=100),
    Case("each_has_more", each_has_more, rows=112, bare_rows=105),
    Case("empty", empty, rows=60, bare_rows=0),
    Case("split_brain", split_brain, rows=150, bare_rows=100, path_of_second="-of-r2"),
    Case("lagging", lagging, rows=10, bare_rows=110, refused="SYNC_FAILED"),
]


def made(cluster: Cluster, case: Case, kind: str) -> Pair:
    """The case's table, its replicas different."""
    name = f"{kind}_{case.name}"
    other = f"/tables/01/d/{name}{case.path_of_second}" if case.path_of_second else None
    pair = Pair(cluster, name, other)
    case.make(pair)
    if case.refused == "SYNC_FAILED" and kind != "bare":
        # It would wait for ten minutes.
        pair.first.set_faults({"pattern": f"^SYSTEM SYNC REPLICA .*{name}", **LASTING})
    return pair


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_replicas_that_differ(cluster, case):
    """Stopped and back in service; allowed, the union of all rows is on both, each once."""
    bare = made(cluster, case, "bare")
    lost = bare.bare([bare.first, bare.second])
    print(f"bare statements: {lost} of {case.rows} rows")
    assert [count for count, _ in lost] == [case.bare_rows] * 2 and case.bare_rows != case.rows

    pair, rekeeper = made(cluster, case, "kept"), cluster.rekeeper
    before, plain, allowed = pair.rows(), f"{case.name}-plain", f"{case.name}-allowed"
    rekeeper("plan", plain, "--table", pair.name, "--restart", "never").expect(DONE)
    rekeeper("start", plain, "--yes").expect(PROBLEMS)
    problems = {t["problem"]["code"] for t in rekeeper.status(plain)["tables"] if t["problem"]}
    assert problems == {case.refused}, rekeeper("problems", plain)
    rekeeper("abort", plain).expect(DONE)
    rekeeper.wait_for_state(plain, "ABORTED")
    for host in cluster.hosts:
        pair.until_writable(host)
    if case.refused == "NOT_SETTLED":
        assert pair.rows() == before, "stopped, and in service as it was"
    cluster.host(HOSTS[0]).clear_faults()
    if case.name == "lagging":
        # Going back into service has mended the queue: it lags once more.
        pair.first.query(f"DROP TABLE {pair.name} SYNC")
        pair.second.query(f"DROP TABLE {pair.name} SYNC")
        pair = made(cluster, case, "again")

    rekeeper("plan", allowed, "--table", pair.name, "--restart", "never", "--allow", "DIVERGED").expect(DONE)
    started = rekeeper("start", allowed, "--yes")
    cluster.host(HOSTS[0]).clear_faults()
    print(started, json.dumps(rekeeper.status(allowed)["replica_sets"]))
    started.expect(DONE)
    for host in cluster.hosts:
        pair.sync(host)
    assert pair.rows() == [(case.rows, case.rows)] * 2
    pair.insert(pair.first, 1000, 1)
    pair.sync(pair.second)
    assert pair.rows() == [(case.rows + 1, case.rows + 1)] * 2, "and it replicates"


def test_what_one_migration_leaves_in_detached_is_not_in_the_way_of_the_next(cluster):
    """r1 has what r2 has dropped, and what r2 has merged: neither is attached, and both stay, under other names."""
    pair, rekeeper = Pair(cluster, "leaves"), cluster.rekeeper
    pair.insert(pair.second, 0, 100, partition=1)
    for start, rows in ((100, 8), (200, 7)):
        pair.insert(pair.second, start, rows)
    pair.sync(pair.first)
    pair.first.query(f"SYSTEM STOP REPLICATION QUEUES {pair.name}")
    pair.second.query(f"ALTER TABLE {pair.name} DROP PARTITION 1")
    pair.second.query(f"ALTER TABLE {pair.name} RESET SETTING max_bytes_to_merge_at_max_space_in_pool")
    pair.second.query(f"OPTIMIZE TABLE {pair.name} PARTITION 0 FINAL")
    pair.first.set_faults({"pattern": "^SYSTEM SYNC REPLICA .*leaves", **LASTING})
    plan = ("--table", pair.name, "--restart", "never")
    rekeeper("plan", "le_1", *plan, "--allow", "DIVERGED").expect(DONE)
    rekeeper("start", "le_1", "--yes").expect(DONE)
    pair.first.clear_faults()
    assert pair.rows() == [(15, 15)] * 2

    # New parts have the old names again.
    pair.insert(pair.first, 0, 100, partition=1)
    pair.insert(pair.first, 300, 1)
    pair.sync(pair.second)
    rekeeper("plan", "le_2", *plan).expect(DONE)
    rekeeper("start", "le_2", "--yes").expect(DONE)
    assert pair.rows() == [(116, 116)] * 2
    detached = "SELECT name FROM system.detached_parts WHERE concat(database, '.', table) = {t:String} ORDER BY name"
    left = [name for (name,) in pair.first.query(detached, t=pair.name)]
    assert left == [f"rekeeper-le-1_{part}" for part in ("0_0_0_0", "0_1_1_0", "1_0_0_0")]
    # Statements about the partition do not find them either; whoever wants the dropped rows after all renames the folder.
    for partition in (0, 1):
        pair.first.query(f"ALTER TABLE {pair.name} ATTACH PARTITION {partition}")
    assert pair.rows() == [(116, 116)] * 2
    folder = pair.first.value(
        "SELECT path FROM system.detached_parts WHERE concat(database, '.', table) = {t:String} AND name = {n:String}",
        t=pair.name,
        n="rekeeper-le-1_1_0_0_0",
    )
    Path(folder).rename(Path(folder).with_name("1_7_7_0"))
    pair.first.query(f"ALTER TABLE {pair.name} ATTACH PART '1_7_7_0' SETTINGS insert_deduplicate = 0")
    assert pair.rows()[0] == (216, 116)


@pytest.mark.parametrize("name", ["instant", "instant_and_lost"])
def test_partition_that_is_dropped_while_parts_of_it_are_attached_again(cluster, name):
    """r2 has two parts to bring; the order to drop comes when the first of them is on its way. The same when the agent
    has lost its notes of what it attached."""
    pair, rekeeper, agent = Pair(cluster, name), cluster.rekeeper, cluster.agents[cluster.hosts[1].name]
    pair.insert(pair.first, 0, 10)
    pair.insert(pair.first, 100, 10, partition=1)
    pair.sync(pair.second)
    pair.accident(pair.first, lambda: pair.insert(pair.second, 200, 7, partition=1))
    pair.accident(pair.first, lambda: pair.insert(pair.second, 300, 8, partition=1))
    # So that r1 is the reference.
    for number in range(3):
        pair.accident(pair.second, lambda number=number: pair.insert(pair.first, 400 + number, 1))
    rekeeper("plan", name, "--table", pair.name, "--restart", "never", "--allow", "DIVERGED").expect(DONE)
    held = len(pair.second.query_log("held"))
    pair.second.set_faults({"pattern": "ATTACH PART", "wait": True})
    following = rekeeper.background("start", name, "--yes", output=cluster.directory / f"{name}.out")
    wait_for(lambda: len(pair.second.query_log("held")) > held, "ATTACH PART to be sent", 60)
    pair.first.query(f"ALTER TABLE {pair.name} DROP PARTITION 1")
    if name == "instant_and_lost":
        agent.kill()
        shutil.rmtree(agent.state)
        pair.second.clear_faults()
        agent.start()
    pair.second.clear_faults()
    assert following.wait(timeout=120) == PROBLEMS
    # The second one was not attached any more, and of the first it is said what happened.
    assert pair.rows()[1] == (20, 20)
    (problem,) = [t["problem"] for t in rekeeper.status(name)["tables"] if t["problem"]]
    print(problem["message"], "|", problem["said"])
    assert problem["code"] == "PARTS_UNACCOUNTED" and "dropped partition 1" in problem["message"]
    statement = problem["said"].split(": ", 1)[1].split(";")[0]
    assert statement.startswith(f"ALTER TABLE `d`.`{name}` DETACH PART ")
    pair.second.query(statement)
    rekeeper("retry", name).expect(DONE)
    assert rekeeper.wait_for_state(name, "COMPLETED", "FAILED")["state"] == "COMPLETED"
    for host in cluster.hosts:
        pair.sync(host)
    assert pair.rows() == [(13, 13)] * 2


def test_a_lost_part_makes_ranges_lie(cluster):
    """r1 gave up a part and merged over it; r2, dropped and put back, still has its 7 rows."""
    pair = Pair(cluster, "lying")
    for start, rows in ((0, 8), (100, 7), (200, 7)):
        pair.insert(pair.first, start, rows)
    pair.sync(pair.second)
    replica = f"{pair.path}/replicas/r2"
    with cluster.zookeeper.client() as client:
        copy(client, replica, f"{pair.path}-kept")
        pair.second.query(f"DETACH TABLE {pair.name} SYNC")
        pair.first.query(f"SYSTEM DROP REPLICA 'r2' FROM TABLE {pair.name}")
        folder = pair.first.value(
            "SELECT path FROM system.parts WHERE concat(database, '.', table) = {t:String} AND min_block_number = 1",
            t=pair.name,
        )
        pair.first.stop()
        shutil.rmtree(folder)
        pair.first.start()
        lost = "SELECT lost_part_count FROM system.replicas WHERE concat(database, '.', table) = {t:String}"
        wait_for(lambda: pair.first.value(lost, t=pair.name) == "1", "the part to be given up", 90)
        pair.first.query(f"ALTER TABLE {pair.name} RESET SETTING max_bytes_to_merge_at_max_space_in_pool")
        pair.first.query(f"OPTIMIZE TABLE {pair.name} FINAL")
        copy(client, f"{pair.path}-kept", replica)
        end = max(int(name.removeprefix("log-")) for name in client.get_children(f"{pair.path}/log")) + 1
        client.set(f"{replica}/log_pointer", str(end).encode())
        client.delete(f"{pair.path}-kept", recursive=True)
    pair.second.query(f"ATTACH TABLE {pair.name}")
    pair.until_writable(pair.second)
    assert pair.rows() == [(15, 15), (22, 22)]

    rekeeper = cluster.rekeeper
    plan = ("--table", pair.name, "--restart", "never")
    answer = rekeeper("plan", "lying", *plan, "-o", "json").expect(BLOCKED)
    assert {finding["code"] for finding in answer.json["blockers"]} == {"LOST_PARTS"}
    allow = ("--allow", "LOST_PARTS", "--allow", "DIVERGED")
    rekeeper("plan", "lying", *plan, *allow).expect(DONE)
    rekeeper("start", "lying", "--yes").expect(PROBLEMS)
    problems = [t["problem"] for t in rekeeper.status("lying")["tables"] if t["problem"]]
    print(problems)
    assert {problem["code"] for problem in problems} == {"DIVERGED"}
    assert "overlap" in problems[0]["message"]
    rekeeper("abort", "lying").expect(DONE)
    rekeeper.wait_for_state("lying", "ABORTED")
    for host in cluster.hosts:
        pair.until_writable(host)
    assert pair.rows() == [(15, 15), (22, 22)], "stopped, and in service as it was"
    # The bare statements, r1 first: what only r2 has is gone.
    assert pair.bare([pair.first, pair.second]) == [(15, 15), (15, 15)]


def test_three_that_differ_are_restored_one_after_another():
    """Each has a part of its own, and two share one; the agent dies between an ATTACH PART and its own note of it."""
    with Cluster(shards=1, replicas=3) as cluster:
        cluster.query_all("CREATE DATABASE d")
        rekeeper = cluster.start_rekeeper()
        table = Pair(cluster, "three")
        first, second, third = cluster.hosts
        table.insert(first, 0, 100)
        for host in (second, third):
            table.sync(host)
        table.accident(first, lambda: table.insert(second, 100, 7))
        table.sync(third)
        table.accident(first, lambda: table.accident(second, lambda: table.insert(third, 200, 3)))
        table.accident(second, lambda: table.accident(third, lambda: table.insert(first, 300, 20)))
        table.accident(second, lambda: table.accident(third, lambda: table.insert(first, 400, 2)))
        assert [count for count, _ in table.rows()] == [122, 107, 110]

        rekeeper("plan", "three", "--allow", "DIVERGED:d.three").expect(DONE)
        attaching = {"pattern": "ATTACH PART", "wait": True, "after": True}
        for host in cluster.hosts:
            host.set_faults(attaching)
        following = rekeeper.background("start", "three", "--yes", output=cluster.directory / "start.out")

        def holds_one() -> list:
            return [host for host in cluster.hosts if host.query_log("held")]

        (held,) = wait_for(holds_one, "an ATTACH PART that is done and not answered", 120)
        cluster.agents[held.name].kill()
        for host in cluster.hosts:
            host.clear_faults()
        cluster.agents[held.name].start()
        assert following.wait(timeout=200) == DONE
        document = rekeeper.status("three")
        print(document["replica_sets"])
        assert document["replica_sets"][0]["settled"] is False
        for host in cluster.hosts:
            table.sync(host)
        assert table.rows() == [(132, 132)] * 3
        again = [p for t in rekeeper("report", "three", "-o", "json").json["tables"] for p in t["parts"]]
        assert "attached_again" in {part["fate"] for part in again}
