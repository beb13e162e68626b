"""A restore gives names of parts to other parts, and the caches of a server know parts by their names.

The first half is bare statements: SELECTs after a restore answer from what the caches know of the former parts, and
dropping the caches once is not enough when somebody reads on. The second half is Rekeeper, with readers all through.
"""

import contextlib
import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from clickhouse import ClickHouse, StatementFailed
from processes import wait_for
from programs import DONE
from rig import Cluster

CACHES = ["MARK", "PRIMARY INDEX", "UNCOMPRESSED", "QUERY CONDITION"]
SETTINGS = {
    "wide": "min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0, use_primary_key_cache = 1",
    "compact": "min_bytes_for_wide_part = 1000000000",
    "many": "min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0",
}
# Parts all_0_1_1, all_2_2_0, all_3_3_0 ... are all_0_0_0, all_1_1_0, all_2_2_0 ... after a restore.
ROWS_PER_PART = {"wide": 10_000, "compact": 10_000, "many": 50}
READS = {
    "everything": "SELECT count(), sum(v), sum(length(s)), sum(id) FROM {table}",
    "by its value": "SELECT count(), sum(v) FROM {table} WHERE s = 'last'",
    "by its key": "SELECT count(), sum(v) FROM {table} WHERE id BETWEEN 100000 AND 100009",
}
RIGHT = {"everything": ("10040", "149987366", "1000070", "60995480"), "by its value": ("10", "1941")}
RIGHT["by its key"] = RIGHT["by its value"]
# The settings with which a statement asks each cache.
ASKING = {
    "MARK": "use_query_condition_cache = 0",
    "PRIMARY INDEX": "use_query_condition_cache = 0",
    "UNCOMPRESSED": "use_query_condition_cache = 0, use_uncompressed_cache = 1",
    "QUERY CONDITION": "use_query_condition_cache = 1",
}
ALL_AT_ONCE = "use_query_condition_cache = 1, use_uncompressed_cache = 1"
# Holds the parts for the three seconds that it takes, and notes at its end what it has learned for its condition.
SLOW = (
    "SELECT sum(v), sum(sleepEachRow(0.3)) FROM {table} WHERE s = 'last' SETTINGS max_threads = 1,"
    " optimize_move_to_prewhere = 0, function_sleep_max_microseconds_per_block = 0"
)
UNKNOWN_TABLE = "Code: 60."
NO_ANSWER = "no answer"


def create(hosts: list[ClickHouse], database: str, *names: str) -> list[str]:
    """Make tables whose first part is a merged one; their names."""
    tables = [f"{database}.{name}" for name in names]
    for host in hosts:
        host.query(f"CREATE DATABASE {database}")
        for name, table in zip(names, tables, strict=True):
            place = f"'/tables/{{shard}}/{database}/{name}', '{{replica}}'"
            host.query(
                f"CREATE TABLE {table} (id UInt64, v UInt64, s String) ENGINE = ReplicatedMergeTree({place})"
                f" ORDER BY id SETTINGS {SETTINGS[name]}, index_granularity = 1000"
            )
    first = hosts[0]
    for name, table in zip(names, tables, strict=True):
        first.query(f"INSERT INTO {table} SELECT number, number, 'a' FROM numbers(10)")
        first.query(f"INSERT INTO {table} SELECT number + 10, number * 2, 'b' FROM numbers(20)")
        first.query(f"OPTIMIZE TABLE {table} FINAL")
        for host in hosts:
            host.query(f"SYSTEM SYNC REPLICA {table}")
            host.query(f"SYSTEM STOP MERGES {table}")
        limits = ["max_block_size", "max_insert_block_size", "min_insert_block_size_rows"]
        blocks = ", ".join(f"{limit} = {ROWS_PER_PART[name]}" for limit in limits)
        first.query(
            f"INSERT INTO {table} SELECT number + 1000, number * 3, repeat('y', 100) FROM numbers(10000)"
            f" SETTINGS max_insert_threads = 1, min_insert_block_size_bytes = 0, {blocks}"
        )
        first.query(f"INSERT INTO {table} SELECT number + 100000, if(number = 9, 1860, 9), 'last' FROM numbers(10)")
        for host in hosts:
            # Of many parts merges are ordered, which are stopped.
            host.query(f"SYSTEM SYNC REPLICA {table} LIGHTWEIGHT")
    return tables


def answer(host: ClickHouse, read: str, table: str, settings: str) -> tuple[str, ...]:
    """The row of a read, or what went wrong; wrong marks may also end the engine."""
    try:
        (row,) = host.query(READS[read].format(table=table) + f" SETTINGS {settings}")
        return tuple(row)
    except StatementFailed as error:
        return (str(error)[:200],)
    except (OSError, http.client.HTTPException) as error:
        return (f"{NO_ANSWER}: {error!r}",)


def wrong_answers(host: ClickHouse, tables: list[str], settings: str) -> list[str]:
    """Read everything, twice, so that the caches are warm afterwards; what was not right."""
    wrong = []
    for read in [*READS, *READS]:
        for table in tables:
            found = answer(host, read, table, settings)
            if found != RIGHT[read]:
                wrong.append(f"{read} of {table}: {', '.join(found)} for {', '.join(RIGHT[read])}")
            if not host.is_running:
                host.start()
    return wrong


def drop(host: ClickHouse, *caches: str) -> None:
    """Forget caches, of all tables."""
    for cache in caches:
        host.query(f"SYSTEM DROP {cache} CACHE")


def lose_metadata(cluster: Cluster, database: str, tables: list[str]) -> None:
    """What comes before a bare restore."""
    (host,) = cluster.hosts
    for table in tables:
        host.query(f"DETACH TABLE {table} PERMANENTLY SYNC")
    with cluster.zookeeper.client() as client:
        client.delete(f"/tables/01/{database}", recursive=True)
    for table in tables:
        host.query(f"ATTACH TABLE {table}")


class Slow:
    """A slow reader of each table on one host; at the end of the context all have ended."""

    def __init__(self, host: ClickHouse, tables: list[str]):
        self._host, self.ended = host, {}
        self._threads = [threading.Thread(target=self._read, args=(table,), daemon=True) for table in tables]

    def __enter__(self) -> "Slow":
        for thread in self._threads:
            thread.start()
        reading = "SELECT countIf(read_rows > 0) FROM system.processes WHERE query LIKE '%sleepEachRow%'"
        # One is the statement that asks.
        wait_for(lambda: int(self._host.value(reading)) >= len(self._threads), "the slow readers to read")
        return self

    def __exit__(self, *_) -> None:
        for thread in self._threads:
            thread.join()

    def _read(self, table: str) -> None:
        # Whatever it is told: this is about what it leaves behind.
        with contextlib.suppress(StatementFailed, OSError, http.client.HTTPException):
            self._host.query(SLOW.format(table=table))
        self.ended[table] = time.time()


@pytest.fixture(scope="module")
def alone():
    """A host of its own, since wrong reads may abort the engine."""
    with Cluster(shards=1, replicas=1) as cluster:
        yield cluster


@pytest.mark.parametrize("cache", CACHES)
def test_bare_restore_is_answered_from_a_stale_cache(alone, cache):
    (host,), database = alone.hosts, cache.replace(" ", "_").lower()
    tables = create([host], database, "wide", "compact")
    assert wrong_answers(host, tables, ASKING[cache]) == []
    lose_metadata(alone, database, tables)
    assert wrong_answers(host, tables, ASKING[cache]) == []
    for table in tables:
        host.query(f"SYSTEM RESTORE REPLICA {table}")
    # Any of the four suffices.
    drop(host, *(other for other in CACHES if other != cache))
    wrong = wrong_answers(host, tables, ASKING[cache])
    print("\n".join(wrong))
    assert wrong
    drop(host, cache)
    assert wrong_answers(host, tables, ASKING[cache]) == []


def test_bare_drop_of_all_caches_is_undone_by_a_reader_that_began_before(alone):
    (host,), database = alone.hosts, "reader"
    tables = create([host], database, "wide", "compact")
    lose_metadata(alone, database, tables)
    with Slow(host, tables):
        for table in tables:
            host.query(f"SYSTEM RESTORE REPLICA {table}")
        drop(host, *CACHES)
        assert wrong_answers(host, tables, ALL_AT_ONCE) == []
        drop(host, *CACHES)
    wrong = wrong_answers(host, tables, ALL_AT_ONCE)
    print("\n".join(wrong))
    assert wrong


@dataclass(frozen=True)
class Read:
    """What a reader was told."""

    began: float
    ended: float
    host: str
    table: str
    read: str
    found: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What came of it."""
        if self.found == RIGHT[self.read]:
            return "right"
        if self.found[0].startswith(UNKNOWN_TABLE):
            return "detached"
        if self.found[0].startswith(NO_ANSWER):
            return "down"
        return "failed" if len(self.found) == 1 else "WRONG"


@dataclass
class Readers:
    """A client of each host that reads all tables again and again."""

    hosts: list[ClickHouse]
    tables: list[str]
    reads: list[Read] = field(default_factory=list)

    def __enter__(self) -> "Readers":
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(host,), daemon=True) for host in self.hosts]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, host: ClickHouse) -> None:
        while not self._stopping.wait(0.01):
            for table in self.tables:
                for read in READS:
                    began = time.time()
                    found = answer(host, read, table, ALL_AT_ONCE)
                    self.reads.append(Read(began, time.time(), host.name, table, read, found))

    def of(self, host: str, table: str) -> list[Read]:
        """Those of one table replica."""
        return [read for read in self.reads if (read.host, read.table) == (host, table)]


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with Rekeeper."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.start_rekeeper()
        yield cluster


LONG = (
    "SELECT count(), sum(sleepEachRow(0.05)) FROM aside.unplanned SETTINGS max_threads = 1, max_block_size = 10,"
    " function_sleep_max_microseconds_per_block = 0"
)


@pytest.fixture
def long_statement(two):
    """A SELECT on the first host that runs all through, and reads a table that is not planned; when it began."""
    host = two.hosts[0]
    host.query("CREATE DATABASE aside")
    place = "'/tables/{shard}/aside/unplanned', '{replica}'"
    host.query(f"CREATE TABLE aside.unplanned (id UInt64) ENGINE = ReplicatedMergeTree({place}) ORDER BY id")
    host.query("INSERT INTO aside.unplanned SELECT number FROM numbers(3000)")

    def read() -> None:
        with contextlib.suppress(StatementFailed, OSError, http.client.HTTPException):
            host.query(LONG)

    thread, began = threading.Thread(target=read, daemon=True), time.monotonic()
    thread.start()
    running = "SELECT query_id FROM system.processes WHERE startsWith(query, 'SELECT count(), sum(sleep')"
    wait_for(lambda: host.query(running), "the long statement to run")
    yield began
    assert thread.is_alive(), "the long statement did not run all through"
    ((query_id,),) = host.query(running)
    host.query(f"KILL QUERY WHERE query_id = '{query_id}' SYNC")
    thread.join()


def test_a_long_statement_holds_up_only_what_it_may_read(two, long_statement):
    """The plan of a table that it reads names it; a table that it does not read is restored while it runs."""
    create(two.hosts, "beside", "wide")
    two.rekeeper("plan", "beside", "--database", "beside", "--restart", "never").expect(DONE)
    two.rekeeper("start", "beside", "--yes", timeout=60).expect(DONE)
    time.sleep(max(0, long_statement + 31 - time.monotonic()))
    found = two.rekeeper("plan", "aside", "--database", "aside", "-o", "json").expect(DONE).json["warnings"]
    (told,) = [finding for finding in found if finding["code"] == "LONG_STATEMENTS"]
    assert told["host"] == two.hosts[0].name and "aside.unplanned: SELECT count(), sum(sleep" in told["message"]


def restored_at(cluster: Cluster, name: str) -> dict[tuple[str, str], float]:
    """When each table replica was told RESTORED."""
    done = [e for e in cluster.rekeeper.events(name) if (e["kind"], e["step"]) == ("done", "clear")]
    return {(e["host"], e["target"]): datetime.fromisoformat(e["time"]).timestamp() for e in done}


@pytest.mark.parametrize("restart", ["once", "never"])
def test_readers_never_see_a_wrong_answer_of_a_restored_table(two, restart):
    rekeeper, name = two.rekeeper, f"m-{restart}"
    tables, slow = create(two.hosts, restart, *SETTINGS), {}
    held = {host.name: len(host.query_log("held")) for host in two.hosts}
    with Readers(two.hosts, tables) as readers:
        for host in two.hosts:
            assert wrong_answers(host, tables, ALL_AT_ONCE) == []
            host.set_faults({"pattern": "^SYSTEM RESTORE REPLICA", "wait": True})
        rekeeper("plan", name, "--database", restart, "--restart", restart).expect(DONE)
        with rekeeper.background("start", name, "--yes", output=two.directory / f"{name}.out") as following:
            for host in two.hosts:
                wait_for(
                    lambda host=host: len(host.query_log("held")) - held[host.name] >= len(tables),
                    f"the restores on {host.name}",
                    timeout=120,
                )
                with Slow(host, tables) as slow[host.name]:
                    host.clear_faults()
            assert following.wait(timeout=120) == DONE
        at_the_end = len(readers.reads)
        wait_for(lambda: len(readers.reads) >= at_the_end + 100, "reads after the migration", timeout=60)
    restored = restored_at(two, name)
    assert len(restored) == len(two.hosts) * len(tables)
    for (host, table), at in restored.items():
        before = [read for read in readers.of(host, table) if read.began < at]
        unsure = [read for read in before if read.kind in ("failed", "WRONG")]
        lasted = max(r.ended for r in unsure) - min(r.began for r in unsure) if unsure else 0
        print(f"{table} on {host}: before RESTORED {dict(Counter(r.kind for r in before))}, unsure for {lasted:.2f} s")
        print("\n".join(f"  {r.began - at:.2f} {r.ended - at:.2f} {r.read}: {r.found}" for r in unsure))
        # What it leaves behind would outlive everything that is dropped while it reads.
        assert slow[host].ended[table] < at
        assert [read for read in readers.of(host, table) if read.began >= at and read.kind != "right"] == []
    for host in two.hosts:
        assert wrong_answers(host, tables, ALL_AT_ONCE) == []
