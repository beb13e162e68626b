"""Whoever reads all the time neither ends a server nor is told wrong rows of a restored table.

Parts all_0_1_1, all_2_2_0 and all_3_3_0 are all_0_0_0, all_1_1_0 and all_2_2_0 after a restore, and the last one has more
marks than that of its name before. Without a gate the engine of 26.9 ends there, and 25.8 answers 432.
"""

import contextlib
import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from cable import Cable
from clickhouse import ClickHouse, StatementFailed
from hosts import ENGINES
from processes import wait_for
from programs import DONE
from rig import Cluster
from test_loss_caches import restored_at

SETTINGS = {
    "wide": "min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0",
    "compact": "min_bytes_for_wide_part = 1000000000, min_rows_for_wide_part = 1000000000",
}
# Of each part; the first one is inserted as two.
ROWS = [100, 1_000, 20_000]
READS = {
    "SELECT count(), sum(v), sum(length(s)) FROM {table} WHERE s LIKE 'last%'": (20_000, 60_000, 100_000),
    "SELECT count(), sum(v) FROM {table} WHERE v = 2": (1_000, 2_000),
    "SELECT count(), sum(v) FROM {table} WHERE v > 0 AND id % 2 = 0": (10_550, 31_050),
}
DETACHED = "code 60"
# A file of a part that was being moved to detached/.
MOVED = "code 107"
SLOW = (
    "SELECT sum(v), sum(sleepEachRow(0.5)) FROM {table} WHERE s = 'slow' SETTINGS max_threads = 1, max_block_size = 10,"
    " optimize_move_to_prewhere = 0, function_sleep_max_microseconds_per_block = 0"
)


@pytest.fixture(scope="module", params=ENGINES)
def two(request):
    """Two replicas of one shard on that version, with Rekeeper."""
    with Cluster(shards=1, replicas=2, engine=request.param) as cluster:
        cluster.start_rekeeper()
        yield cluster


@pytest.fixture(scope="module")
def embedded():
    """The same on the newest version, which is the one that falls over."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.start_rekeeper()
        yield cluster


def create(cluster: Cluster, database: str, engine: str = "ReplicatedMergeTree") -> list[str]:
    """A table of each kind with three parts, the first of which is merged; their names."""
    cluster.query_all(f"CREATE DATABASE {database}")
    for name, settings in SETTINGS.items():
        place = f"'/tables/{{shard}}/{database}/{name}', '{{replica}}'"
        cluster.query_all(
            f"CREATE TABLE {database}.{name} (id UInt64, v UInt64, s String) ENGINE = {engine}({place})"
            f" ORDER BY id SETTINGS {settings}, index_granularity = 64"
        )
    tables = [f"{database}.{name}" for name in SETTINGS]
    for table in tables:
        half, whole, last = ROWS[0] // 2, ROWS[1], ROWS[2]
        for begin in (0, half):
            cluster.hosts[0].query(f"INSERT INTO {table} SELECT number + {begin}, 1, 'first' FROM numbers({half})")
        cluster.hosts[0].query(f"OPTIMIZE TABLE {table} FINAL")
        cluster.hosts[1].query(f"SYSTEM SYNC REPLICA {table}")
        cluster.query_all(f"SYSTEM STOP MERGES {table}")
        cluster.hosts[0].query(f"INSERT INTO {table} SELECT number, 2, 'middle' FROM numbers({whole})")
        cluster.hosts[0].query(f"INSERT INTO {table} SELECT number, 3, 'last' || toString(number % 10) FROM numbers({last})")
        cluster.hosts[1].query(f"SYSTEM SYNC REPLICA {table} LIGHTWEIGHT")
        for host in cluster.hosts:
            assert [answer(host, read, table) for read in READS] == list(READS.values())
    return tables


def answer(host: ClickHouse, read: str, table: str) -> tuple[int, ...] | str:
    """The row of a read, or what went wrong."""
    try:
        (row,) = host.query(read.format(table=table))
        return tuple(int(value) for value in row)
    except StatementFailed as error:
        return f"code {error.code}: {str(error)[:200]}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error!r}"


@dataclass(frozen=True)
class Read:
    """What a reader was told."""

    began: float
    host: str
    table: str
    read: str
    found: tuple[int, ...] | str

    @property
    def kind(self) -> str:
        """What came of it."""
        if isinstance(self.found, str):
            return self.found.split(":")[0]
        return "right" if self.found == READS[self.read] else "other rows"


@contextlib.contextmanager
def readers(hosts: list[ClickHouse], tables: list[str]):
    """Two clients of each host, one for each table; what they have been told until now."""
    reads: list[Read] = []
    stopping = threading.Event()

    def run(host: ClickHouse, table: str) -> None:
        while not stopping.wait(0.001):
            for read in READS:
                reads.append(Read(time.time(), host.name, table, read, answer(host, read, table)))

    threads = [threading.Thread(target=run, args=(host, table)) for host in hosts for table in tables]
    for thread in threads:
        thread.start()
    try:
        yield reads
        at_the_end = len(reads)
        wait_for(lambda: len(reads) >= at_the_end + 100, "reads after the migration", timeout=60)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def check(cluster: Cluster, name: str, reads: list[Read], has_no_server: bool = False) -> None:
    """Each read of a restored table is right, and what was refused before is what may be."""
    may_be_refused_with = {DETACHED, MOVED} | ({"no answer"} if has_no_server else set())
    restored = restored_at(cluster, name)
    assert len(restored) == len(cluster.hosts) * len(SETTINGS)
    for (host, table), at in restored.items():
        own = [read for read in reads if (read.host, read.table) == (host, table)]
        before = Counter(read.kind for read in own if read.began < at)
        print(f"{table} on {host}: before RESTORED {dict(before)}")
        refused = set(before) - {"right", "other rows"}
        assert refused <= may_be_refused_with
        assert [read for read in own if read.began >= at and read.kind != "right"] == []


@pytest.mark.parametrize("restart", ["never", "once"])
def test_readers_end_no_server(two, restart):
    rekeeper, database = two.rekeeper, f"readers_{restart}"
    tables, name = create(two, database), f"readers-{restart}"
    rekeeper("plan", name, "--database", database, "--restart", restart).expect(DONE)
    pids = {host.name: {host.engine_pid} for host in two.hosts}
    with readers(two.hosts, tables) as reads:
        with rekeeper.background("start", name, "--yes", output=two.directory / f"{name}.out") as following:
            assert following.wait(timeout=120) == DONE
        for host in two.hosts:
            pids[host.name].add(host.engine_pid)
    assert {len(of_host) for of_host in pids.values()} == ({2} if restart == "once" else {1})
    check(two, name, reads, has_no_server=restart == "once")


def slow_reader(host: ClickHouse, table: str) -> threading.Thread:
    """Holds the parts that the table has now, for six seconds."""

    def read() -> None:
        with contextlib.suppress(StatementFailed, OSError, http.client.HTTPException):
            host.query(SLOW.format(table=table))

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def test_who_reads_for_long_is_waited_for_with_no_part_there(embedded):
    """Longer than RESTORE waits: then the parts are attached one by one, in their sequence."""
    rekeeper, reference = embedded.rekeeper, embedded.hosts[0]
    tables = create(embedded, "slow", "ReplicatedReplacingMergeTree")
    rekeeper("plan", "slow", "--database", "slow", "--restart", "never").expect(DONE)
    reference.set_faults({"pattern": "^SYSTEM RESTORE REPLICA", "wait": True})
    held = len(reference.query_log("held"))
    with readers(embedded.hosts, tables) as reads:
        with rekeeper.background("start", "slow", "--yes", output=embedded.directory / "slow.out") as following:
            wait_for(lambda: len(reference.query_log("held")) - held >= len(tables), "the restores", timeout=60)
            slow = [slow_reader(reference, table) for table in tables]
            time.sleep(1)
            reference.clear_faults()
            assert following.wait(timeout=120) == DONE
        ended = time.time()
        for thread in slow:
            thread.join()
    check(embedded, "slow", reads)
    assert all(at <= ended for at in restored_at(embedded, "slow").values())
    for host in embedded.hosts:
        for table in tables:
            assert host.query(f"SELECT v, count() FROM {table} FINAL GROUP BY v") == [["3", "20000"]]


@pytest.fixture
def cable(embedded):
    """The one to the reference's server, which its agent has for this test."""
    reference, cluster = embedded.hosts[0], embedded
    agent, cable = cluster.agents[reference.name], Cable(reference.port)
    honest = agent.configuration
    for url in (f"http://127.0.0.1:{cable.port}", honest["clickhouse"]["url"]):
        agent.configure(honest | {"clickhouse": honest["clickhouse"] | {"url": url}})
        agent.restart()
        cluster.rekeeper.wait_for_agents(reference.name)
        if str(cable.port) in url:
            yield cable
    cable.close()


@pytest.mark.parametrize("who", ["agent", "server", "connections"])
def test_killed_at_the_gate(embedded, cable, who):
    """Everything is away, and the caches are about to be dropped. RESTORE goes on alone, and nobody waits for readers."""
    rekeeper, reference = embedded.rekeeper, embedded.hosts[0]
    tables, name = create(embedded, f"killed_{who}"), f"killed-{who}"
    rekeeper("plan", name, "--database", f"killed_{who}", "--restart", "never").expect(DONE)
    reference.set_faults({"pattern": "^SYSTEM DROP MARK CACHE", "wait": True})
    held = len(reference.query_log("held"))
    agent = embedded.agents[reference.name]
    with readers(embedded.hosts, tables) as reads:
        with rekeeper.background("start", name, "--yes", output=embedded.directory / f"{name}.out") as following:
            wait_for(lambda: len(reference.query_log("held")) > held, "the caches to be dropped", timeout=60)
            if who == "agent":
                agent.kill()
                reference.clear_faults()
                agent.start()
            elif who == "connections":
                cable.cut()
                reference.clear_faults()
            else:
                reference.kill()
                reference.clear_faults()
                reference.start()
            assert following.wait(timeout=180) == DONE
    check(embedded, name, reads, has_no_server=who == "server")
    with embedded.zookeeper.client() as client:
        assert {client.get(f"/tables/01/killed_{who}/{kind}")[0] for kind in SETTINGS} == {b""}
    # Of the other table nothing may have been sent yet.
    restores = ["SYSTEM RESTORE REPLICA `{}`.`{}`".format(*table.split(".")) for table in tables]
    sent = Counter(record["sql"] for record in reference.query_log())
    assert max(sent[restore] for restore in restores) > 1, "the first one went on with the caches as they were"
