"""Who writes into a planned table by itself, and loses what the server has acknowledged while the table is away.

The first test of each kind is bare statements, and shows the loss, or that there is none. docs/writers.md tells it in a table.
"""

import contextlib
import itertools
import re
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from clickhouse import StatementFailed
from old_server import OldServer
from processes import wait_for
from programs import BLOCKED, DONE, PROBLEMS
from rig import Cluster

NUMBERS = itertools.count(1)
ROWS = 10
# A shard that nobody answers for.
NOBODY = """<remote_servers><nobody><shard><replica><host>127.0.0.2</host><port>1</port></replica></shard></nobody>
</remote_servers>"""
UNKNOWN_TABLE = 60
# It writes nothing by itself within the time of a test.
NEVER = "1, 1000, 1000, 1000000, 1000000, 100000000, 100000000"


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper, and a cluster of which nobody answers."""

    class WithNobody(Cluster):
        def __init__(self):
            super().__init__(shards=1, replicas=2)
            for host in self.hosts:
                host.configure(self.zookeeper, more=NOBODY)

    with WithNobody() as made:
        made.query_all("CREATE DATABASE d")
        made.query_all("CREATE DATABASE other")
        made.start_rekeeper()
        yield made


class Case:
    """Tables of its own in `d`, a planned one among them, and a name for each plan."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.name = cluster, f"t{next(NUMBERS)}"
        self.table = f"d.{self.name}"
        self.host, self.rekeeper = cluster.hosts[0], cluster.rekeeper
        self.made: list[tuple[str, str]] = []
        self.first = itertools.count(0, ROWS)
        for host in cluster.hosts:
            host.query(
                f"CREATE TABLE {self.table} (a UInt64)"
                f" ENGINE = ReplicatedMergeTree('/tables/01/{self.name}', '{{replica}}') ORDER BY a"
            )

    def make(self, suffix: str, definition: str, what: str = "TABLE", database: str = "d") -> str:
        """Another table on the first host."""
        name = f"{database}.{self.name}_{suffix}"
        self.host.query(f"CREATE {what} {name} {definition}")
        self.made.append((what if what == "DICTIONARY" else "TABLE", name))
        return name

    def buffer(self, of: str | None = None, suffix: str = "buffer") -> str:
        """A Buffer table over the planned one, or over another one."""
        database, table = (of or self.table).split(".")
        return self.make(suffix, f"(a UInt64) ENGINE = Buffer({database}, {table}, {NEVER})")

    def insert(self, into: str, settings: str = "") -> None:
        """Some rows, others each time: the same once more would be taken for the same."""
        self.host.query(f"INSERT INTO {into} {settings} SELECT number FROM numbers({next(self.first)}, {ROWS})")

    def count(self, table: str | None = None) -> int:
        """Rows on the first host."""
        return int(self.host.value(f"SELECT count() FROM {table or self.table}"))

    def rows(self, table: str) -> list[int]:
        """What the first host has of it."""
        return [int(row) for (row,) in self.host.query(f"SELECT a FROM {table}")]

    def plan(self, code: int, *arguments: str) -> dict:
        """A plan of the table under a new name."""
        self.migration = f"{self.name}-{next(NUMBERS)}"
        arguments = arguments or ("--restart", "never")
        return self.rekeeper("plan", self.migration, "--table", self.table, *arguments, "-o", "json").expect(code).json

    def found(self, of: dict, code: str, kind: str = "blockers") -> list[dict]:
        """The findings with a code."""
        return [finding for finding in of[kind] if finding["code"] == code]

    def take_away(self, fix: str) -> None:
        """Execute the first statements of the remedy for a Buffer table, as they stand there, and wait where it says so."""
        rename, optimize, detach = statements(fix)[:3]
        self.host.query(rename)
        running = f"SELECT count() FROM system.processes WHERE query ILIKE '%INSERT INTO d.{self.name}%'"
        # It counts itself.
        wait_for(lambda: self.host.value(running) == "1", "no INSERT to run any more")
        self.host.query(optimize)
        self.host.query(detach)

    def bring_back(self, fix: str) -> None:
        """Execute the others."""
        for statement in statements(fix)[3:]:
            self.host.query(statement)

    def gone(self) -> None:
        """Nothing of it disturbs another case."""
        for what, name in reversed(self.made):
            self.host.query(f"DROP {what} IF EXISTS {name} SYNC")


def statements(fix: str) -> list[str]:
    """What a remedy tells to execute."""
    return re.findall(r"(?:RENAME|OPTIMIZE|DETACH|ATTACH) TABLE `[^,;]*", fix)


@pytest.fixture
def case(cluster):
    made = Case(cluster)
    yield made
    made.gone()


class Client(threading.Thread):
    """Sends single rows all the time, and knows which were acknowledged."""

    numbers = itertools.count(1_000_000)

    def __init__(self, case: Case, into: str, pause: float = 0.01):
        super().__init__(daemon=True)
        self.host, self.into, self.pause = case.host, into, pause
        # By their numbers; of what was refused nothing is known.
        self.rows, self.others = set(), set()
        self.ended = threading.Event()

    @property
    def acknowledged(self) -> int:
        """How many rows were."""
        return len(self.rows)

    @property
    def refused(self) -> int:
        """How many were not."""
        return len(self.others)

    def run(self):
        for number in self.numbers:
            if self.ended.wait(self.pause):
                return
            try:
                self.host.query(f"INSERT INTO {self.into} VALUES ({number})")
                self.rows.add(number)
            except StatementFailed:
                self.others.add(number)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


def detached(case: Case):
    """While the table is away by bare statements."""

    @contextlib.contextmanager
    def away():
        case.host.query(f"DETACH TABLE {case.table} PERMANENTLY SYNC")
        yield
        case.host.query(f"ATTACH TABLE {case.table}")

    return away()


# Buffer


def test_bare_buffer_throws_away_what_it_holds(case):
    buffer = case.buffer()
    case.insert(buffer)
    with detached(case):
        case.insert(buffer)
        case.host.query(f"OPTIMIZE TABLE {buffer}")  # As its own times and limits do.
    assert (case.count(), case.count(buffer)) == (0, 0), "of 20 rows that were acknowledged"


def test_bare_detach_of_a_buffer_loses_what_comes_in_meanwhile(case):
    """So RENAME comes first in the remedy."""
    buffer = case.buffer()
    with contextlib.ExitStack() as clients:
        writing = [clients.enter_context(Client(case, buffer, pause=0)) for _ in range(4)]
        for _ in range(10):
            before = sum(client.acknowledged for client in writing)
            wait_for(lambda: sum(client.acknowledged for client in writing) > before + 20, "rows")
            case.host.query(f"DETACH TABLE {buffer} PERMANENTLY SYNC")
            case.host.query(f"ATTACH TABLE {buffer}")
    case.host.query(f"OPTIMIZE TABLE {buffer}")
    acknowledged = sum(client.acknowledged for client in writing)
    print(f"{acknowledged - case.count()} of {acknowledged} are lost")
    assert case.count() < acknowledged


def test_bare_detach_of_a_buffer_that_nobody_writes_into_writes_what_it_holds(case):
    buffer = case.buffer()
    case.insert(buffer)
    case.host.query(f"DETACH TABLE {buffer} PERMANENTLY SYNC")
    assert case.count() == ROWS
    with pytest.raises(StatementFailed) as refused:
        case.insert(buffer)
    assert refused.value.code == UNKNOWN_TABLE
    case.host.query(f"ATTACH TABLE {buffer}")


def test_a_buffer_blocks_the_plan_and_its_remedy_loses_nothing(case):
    buffer = case.buffer()
    with Client(case, buffer, pause=0) as client:
        wait_for(lambda: client.acknowledged > 20, "rows in the Buffer table")
        (blocker,) = case.found(case.plan(BLOCKED), "BUFFER_TABLE")
        assert blocker["table"] == case.table and buffer in blocker["message"] and blocker["host"] == case.host.name
        refused = case.rekeeper("plan", "x", "--table", case.table, "--allow", "BUFFER_TABLE")
        assert refused.code == 2, "nobody may allow it"
        case.take_away(blocker["fix"])
        case.plan(DONE)
        case.rekeeper("start", case.migration, "--yes").expect(DONE)
        case.bring_back(blocker["fix"])
        before = client.acknowledged
        wait_for(lambda: client.acknowledged > before + 20, "rows in the Buffer table, after")
    case.host.query(f"OPTIMIZE TABLE {buffer}")
    print(f"{client.acknowledged} acknowledged, {client.refused} refused")
    assert client.refused and case.count() == client.acknowledged


def test_a_buffer_that_is_made_after_the_plan_blocks_the_start(case):
    case.plan(DONE)
    buffer = case.buffer()
    answer = case.rekeeper("start", case.migration, "--yes").expect(BLOCKED)
    assert "BUFFER_TABLE" in str(answer) and buffer in str(answer)


def test_a_buffer_that_is_made_after_the_start_stops_the_detach(case):
    """The table is back in service, and the remedy that the problem prints, and retry, bring it to its end."""
    case.plan(DONE)
    held = len(case.host.query_log("held"))
    case.host.set_faults({"pattern": f"SYNC REPLICA .*{case.name}", "wait": True})
    output = case.cluster.directory / f"{case.name}.out"
    following = case.rekeeper.background("start", case.migration, "--yes", output=output)
    wait_for(lambda: len(case.host.query_log("held")) > held, "the replica to be synced")
    buffer = case.buffer()
    case.insert(buffer)
    case.host.clear_faults()
    assert following.wait(timeout=120) == PROBLEMS
    tables = case.rekeeper.status(case.migration)["tables"]
    (problem,) = [table["problem"] for table in tables if table["problem"]]
    print(problem)
    assert problem["code"] == "BUFFER_TABLE" and buffer in problem["message"]
    assert case.count(buffer) == ROWS and {table["status"] for table in tables} == {"INIT"}
    case.take_away(problem["said"])
    case.rekeeper("retry", case.migration).expect(DONE)
    assert case.rekeeper.wait_for_state(case.migration, "COMPLETED", "FAILED")["state"] == "COMPLETED"
    assert case.count() == ROWS


def chain(case: Case) -> str:
    """A Buffer before the source of a view that writes into the planned table."""
    source = case.make("source", "(a UInt64) ENGINE = MergeTree ORDER BY a")
    case.make("view", f"TO {case.table} AS SELECT a FROM {source}", "MATERIALIZED VIEW", "other")
    return case.buffer(source)


def test_bare_buffer_before_a_view_loses_what_it_holds_at_a_restart(case):
    buffer = chain(case)
    case.insert(buffer)
    with detached(case):
        with pytest.raises(StatementFailed):
            case.host.query(f"OPTIMIZE TABLE {buffer}")
        assert case.count(buffer) == ROWS, "it keeps what is refused"
        case.host.restart()
    case.host.query(f"OPTIMIZE TABLE {buffer}")
    assert (case.count(), case.count(buffer)) == (0, 0), "of 10 rows that were acknowledged"


def test_a_buffer_before_a_view_blocks_a_restart_and_keeps_its_rows_without_one(case):
    buffer = chain(case)
    (blocker,) = case.found(case.plan(BLOCKED, "--restart", "once"), "BUFFER_TABLE")
    assert f"through d.{case.name}_source and other.{case.name}_view" in blocker["message"]
    with Client(case, buffer) as client:
        wait_for(lambda: client.acknowledged > 20, "rows in the Buffer table")
        case.plan(DONE)
        case.rekeeper("start", case.migration, "--yes").expect(DONE)
    case.host.query(f"OPTIMIZE TABLE {buffer}")
    assert case.count() == client.acknowledged and client.acknowledged


def test_a_buffer_before_a_distributed_table_blocks_a_restart(case):
    """Whether that sends to a planned host, nobody can tell."""
    spread = case.make("dist", f"(a UInt64) ENGINE = Distributed('nobody', 'd', '{case.name}')")
    case.buffer(spread)
    (blocker,) = case.found(case.plan(BLOCKED, "--restart", "once"), "BUFFER_TABLE")
    assert f"through {spread}" in blocker["message"]
    case.plan(DONE)


# Asynchronous inserts


PROFILE = "<ingest><wait_for_async_insert>0</wait_for_async_insert></ingest>"
QUERY_LOG = "<query_log><database>system</database><table>query_log</table></query_log>"
QUEUED = (
    "SETTINGS async_insert = 1, wait_for_async_insert = 0, async_insert_use_adaptive_busy_timeout = 0,"
    " async_insert_busy_timeout_max_ms = 600000"
)
ALLOWED = ("--restart", "never", "--allow", "INSERTS_NOT_WAITED_FOR")


@pytest.fixture(scope="module")
def server():
    """A real server, which has a queue of asynchronous inserts, with a profile that does not wait for them."""
    with Cluster(shards=1, replicas=1, engine="25.8") as made:
        (host,) = made.hosts
        host.configure(made.zookeeper, more=QUERY_LOG)
        config = host.config.read_text()
        assert "<profiles><default/>" in config
        host.config.write_text(config.replace("<profiles><default/>", f"<profiles><default/>{PROFILE}"))
        host.restart()
        host.query("CREATE DATABASE d")
        made.start_rekeeper()
        yield made


@pytest.fixture
def queued(server):
    """A table, and rows for it that were acknowledged and are in the server's memory."""
    made = Case(server)
    made.host.query(f"INSERT INTO {made.table} {QUEUED} VALUES (1), (2), (3)")
    assert made.count() == 0
    return made


def test_bare_detach_loses_what_is_queued(queued):
    with detached(queued):
        queued.host.query("SYSTEM FLUSH ASYNC INSERT QUEUE")  # As it does by itself within 200 ms.
    assert queued.count() == 0, "of 3 rows that were acknowledged"


def test_bare_table_that_is_read_only_loses_what_is_queued(queued):
    """So a flush before the DETACH is not enough for clients that do not wait: between ATTACH and RESTORED they get an answer
    as ever."""
    host = queued.host
    host.query("SYSTEM FLUSH ASYNC INSERT QUEUE")
    host.query(f"DETACH TABLE {queued.table} PERMANENTLY SYNC")
    with queued.cluster.zookeeper.client() as client:
        client.delete(f"/tables/01/{queued.name}", recursive=True)
    host.query(f"ATTACH TABLE {queued.table}")
    exception = f"SELECT zookeeper_exception FROM system.replicas WHERE table = '{queued.name}'"
    wait_for(lambda: "No node" in host.value(exception), "the table to be without metadata")
    host.query(f"INSERT INTO {queued.table} {QUEUED} VALUES (4)")
    host.query("SYSTEM FLUSH ASYNC INSERT QUEUE")
    with pytest.raises(StatementFailed, match="TABLE_IS_READ_ONLY"):
        host.query(f"INSERT INTO {queued.table} SETTINGS async_insert = 1, wait_for_async_insert = 1 VALUES (5)")
    host.query(f"SYSTEM RESTORE REPLICA {queued.table}")
    assert queued.count() == 3, "without the row that was acknowledged"


def test_what_is_queued_is_written_before_the_detach(queued):
    queued.plan(DONE, *ALLOWED)
    queued.rekeeper("start", queued.migration, "--until", "detached", "--yes").expect(DONE)
    queued.host.query("SYSTEM FLUSH ASYNC INSERT QUEUE")
    queued.rekeeper("start", queued.migration, "--yes").expect(DONE)
    assert queued.count() == 3


def test_a_profile_and_statements_that_do_not_wait_block_the_plan(queued):
    queued.host.query("SYSTEM FLUSH LOGS")
    blockers = queued.found(queued.plan(BLOCKED), "INSERTS_NOT_WAITED_FOR")
    found = {(blocker["table"], blocker["message"]) for blocker in blockers}
    assert found == {(None, "profile ingest"), (queued.table, "statements of user default")}


def test_asynchronous_inserts_are_written_before_the_detach(case):
    """The engine of the rig has no queue, so what is shown is that the server is asked, and when."""
    case.plan(DONE)
    before = [len(host.query_log()) for host in case.cluster.hosts]
    case.rekeeper("start", case.migration, "--yes").expect(DONE)
    for host, seen in zip(case.cluster.hosts, before, strict=True):
        sent = [record["sql"] for record in host.query_log()[seen:]]
        words = ("SYSTEM FLUSH ASYNC INSERT QUEUE", "DETACH TABLE")
        order = [word for query in sent for word in words if query.startswith(word)]
        assert order == list(words), sent


def test_a_flush_that_does_not_end_holds_up_a_detach_for_ten_seconds(case):
    """As it would where the table's log is frozen: the inserts wait for the detach, and the flush for them."""
    case.host.set_faults({"pattern": "^SYSTEM FLUSH ASYNC INSERT QUEUE", "wait": True})
    case.plan(DONE)
    began = time.monotonic()
    case.rekeeper("start", case.migration, "--until", "detached", "--yes").expect(DONE)
    assert 9 < time.monotonic() - began < 60
    case.host.clear_faults()
    case.rekeeper("start", case.migration, "--yes").expect(DONE)


def test_a_user_without_the_right_to_flush_does_not_detach(case):
    denied = "default: Not enough privileges. To execute this query, grant SYSTEM FLUSH ASYNC INSERT QUEUE ON *.*"
    case.host.set_faults({"pattern": "^SYSTEM FLUSH ASYNC INSERT QUEUE", "code": 497, "message": denied})
    case.plan(DONE)
    case.rekeeper("start", case.migration, "--yes").expect(PROBLEMS)
    problems = [table["problem"] for table in case.rekeeper.status(case.migration)["tables"] if table["problem"]]
    assert problems[0]["code"] == "DETACH_FAILED" and "SYSTEM FLUSH ASYNC INSERT QUEUE" in problems[0]["message"]
    case.rekeeper("abort", case.migration).expect(DONE, PROBLEMS)


def told(case: Case, *rules: tuple[str, str]) -> None:
    """What the engine cannot be made to tell of its users, and has no log for."""
    case.host.set_faults(*({"pattern": pattern, "instead": instead} for pattern, instead in rules))


def test_clients_that_do_not_wait_block_the_plan_and_may_be_allowed(case):
    told(case, ("settings_profile_elements", "SELECT 'wait_for_async_insert', 'profile ingest'"))
    (blocker,) = case.found(case.plan(BLOCKED), "INSERTS_NOT_WAITED_FOR")
    assert "profile ingest" in blocker["message"]
    allowed = case.plan(DONE, "--allow", "INSERTS_NOT_WAITED_FOR")
    assert case.found(allowed, "INSERTS_NOT_WAITED_FOR", "warnings")


def test_statements_that_did_not_wait_block_the_plan_of_their_table_only(case):
    log = "SELECT 'wait_for_async_insert', 'statements of user u', {table}"
    told(case, ("query_log", log.format(table="'d.another'")))
    assert not case.found(case.plan(DONE), "INSERTS_NOT_WAITED_FOR", "warnings")
    told(case, ("query_log", log.format(table=f"'{case.table}'")))
    (blocker,) = case.found(case.plan(BLOCKED), "INSERTS_NOT_WAITED_FOR")
    assert blocker["table"] == case.table
    told(case, ("query_log", log.format(table="''")))
    assert case.found(case.plan(BLOCKED), "INSERTS_NOT_WAITED_FOR")


# Views


def test_bare_view_refuses_the_insert_or_loses_it_when_errors_are_ignored(case):
    source = case.make("source", "(a UInt64) ENGINE = MergeTree ORDER BY a")
    case.make("view", f"TO {case.table} AS SELECT a FROM {source}", "MATERIALIZED VIEW")
    with detached(case):
        with pytest.raises(StatementFailed) as refused:
            case.insert(source)
        assert refused.value.code == UNKNOWN_TABLE and case.count(source) == 0, "nothing is written, nothing acknowledged"
        case.insert(source, "SETTINGS materialized_views_ignore_errors = 1")
    assert (case.count(source), case.count()) == (ROWS, 0), "the target misses what was acknowledged"


def test_views_are_named_and_ignored_errors_block(case):
    source = case.make("source", "(a UInt64) ENGINE = MergeTree ORDER BY a")
    view = case.make("view", f"TO {case.table} AS SELECT a FROM {source}", "MATERIALIZED VIEW", "other")
    (warning,) = case.found(case.plan(DONE), "WRITTEN_BY_VIEW", "warnings")
    assert view in warning["message"]
    told(case, ("settings_profile_elements", "SELECT 'materialized_views_ignore_errors', 'user u'"))
    (blocker,) = case.found(case.plan(BLOCKED), "VIEW_ERRORS_IGNORED")
    assert "user u" in blocker["message"] and case.table in blocker["message"]
    case.plan(DONE, "--allow", "VIEW_ERRORS_IGNORED")


def test_a_source_pushes_into_its_view_after_a_migration_and_no_row_is_lost(case):
    """The planned table is the source here, and the view's inner table another."""
    case.make("view", f"ENGINE = MergeTree ORDER BY a AS SELECT a FROM {case.table}", "MATERIALIZED VIEW")
    with Client(case, case.table) as client:
        wait_for(lambda: client.acknowledged > 5, "rows")
        case.plan(DONE)
        case.rekeeper("start", case.migration, "--yes").expect(DONE)
        before = client.acknowledged
        wait_for(lambda: client.acknowledged > before + 5, "rows, after")
    # An INSERT that is refused by DETACH may have written its block, and not have pushed it into the view any more.
    source, view = case.rows(case.table), case.rows(f"d.{case.name}_view")
    assert len(source) == len(set(source)) and len(view) == len(set(view)), "none twice"
    assert client.rows <= set(view) <= set(source) <= client.rows | client.others


def test_a_refreshable_view_goes_on_by_itself(case):
    # Other rows each time: on 25.8 a refresh that brings the same ones again is taken for a repeated INSERT.
    definition = f"REFRESH EVERY 1 SECOND APPEND TO {case.table} AS SELECT rand64() + number AS a FROM numbers({ROWS})"
    view = case.make("refreshed", definition, "MATERIALIZED VIEW")
    wait_for(case.count, "the first refresh")
    (warning,) = case.found(case.plan(DONE), "WRITTEN_BY_VIEW", "warnings")
    assert view in warning["message"]
    with detached(case):
        failure = f"SELECT exception FROM system.view_refreshes WHERE view = '{view.split('.')[1]}'"
        wait_for(lambda: "UNKNOWN_TABLE" in case.host.value(failure), "a refresh to fail")
    case.rekeeper("start", case.migration, "--yes").expect(DONE)
    before = case.count()
    wait_for(lambda: case.count() > before, "a refresh after the migration")
    assert case.count() % ROWS == 0, "a refresh is written whole or not at all"


def test_what_gives_up_blocks_the_plan(case):
    """The engine has no S3Queue that works, so that it feeds the view is injected."""
    source = case.make("source", "(a UInt64) ENGINE = Null")
    view = case.make("view", f"TO {case.table} AS SELECT a FROM {source}", "MATERIALIZED VIEW")
    for engine, blocks in (("S3Queue", True), ("NATS", True), ("Kafka", False)):
        row = f"SELECT 'd', 'queue', '{engine}', 'd', '{view.split('.')[1]}'"
        told(case, ("ARRAY JOIN", row))
        found = case.plan(BLOCKED if blocks else DONE)
        assert bool(case.found(found, "FEED_GIVES_UP")) == blocks
        assert f"fed by {engine} table d.queue" in case.found(found, "WRITTEN_BY_VIEW", "warnings")[0]["message"]
    case.plan(DONE, "--allow", "FEED_GIVES_UP")


# Distributed


def test_blocks_of_a_distributed_table_are_told_when_they_may_be_for_a_planned_table(case):
    other = Case(case.cluster)
    spread = case.make("dist", f"(a UInt64) ENGINE = Distributed('nobody', '', '{case.name}')")
    case.host.query(f"SYSTEM STOP DISTRIBUTED SENDS {spread}")
    case.insert(spread, "SETTINGS distributed_foreground_insert = 0")
    (warning,) = case.found(case.plan(DONE), "DISTRIBUTED_PENDING", "warnings")
    assert spread in warning["message"]
    assert not case.found(other.plan(DONE), "DISTRIBUTED_PENDING", "warnings")


def test_blocks_for_a_table_that_is_not_there_stay_in_the_queue(case):
    """The other server is a real one, of another age: it says that it has no such table."""
    if not case.host.query("SELECT 1 FROM system.table_engines WHERE name = 'Remote'"):
        pytest.skip("the engine has no ENGINE = Remote")
    with tempfile.TemporaryDirectory() as folder, OldServer(Path(folder) / "old") as old:
        port = re.search(r"<tcp_port>(\d+)", old.config.read_text())[1]
        urllib.request.urlopen(old.url, b"CREATE DATABASE d")
        spread = case.make("dist", f"(a UInt64) ENGINE = Remote('127.0.0.1:{port}', 'd', '{case.name}')")
        case.insert(spread, "SETTINGS distributed_foreground_insert = 0")
        with pytest.raises(StatementFailed, match="There is no table"):
            case.host.query(f"SYSTEM FLUSH DISTRIBUTED {spread}")
        queue = (
            "SELECT toString(sum(data_files)) || ' ' || toString(sum(broken_data_files)) FROM system.distribution_queue"
            f" WHERE table = '{case.name}_dist'"
        )
        assert case.host.value(queue) == "1 0"
        case.host.restart()
        assert case.host.value(queue) == "1 0", "none is given up, none is lost with the server"


# What reads


def test_bare_merge_table_has_fewer_rows_and_a_dictionary_what_it_had(case):
    merge = case.make("merge", f"(a UInt64) ENGINE = Merge(d, '^{case.name}$')")
    source = f"SOURCE(CLICKHOUSE(DB 'd' TABLE '{case.name}'))"
    words = case.make("words", f"(a UInt64) PRIMARY KEY a {source} LAYOUT(FLAT()) LIFETIME(0)", "DICTIONARY")
    case.insert(case.table)
    known = f"SELECT dictHas('{words}', toUInt64(7))"
    assert case.host.value(known) == "1"
    case.host.query(f"DETACH TABLE {case.table} PERMANENTLY SYNC SETTINGS check_table_dependencies = 0")
    assert case.count(merge) == 0, "of 10, and no error"
    assert case.host.value(known) == "1"
    with pytest.raises(StatementFailed):
        case.host.query(f"SYSTEM RELOAD DICTIONARY {words}")
    case.host.query(f"ATTACH TABLE {case.table}")
    expression = case.make("regexp", f"(a UInt64) ENGINE = Merge(REGEXP('^d$'), '^{case.name}$|nothing')")
    case.plan(DONE)
    (warning,) = case.found(case.plan(DONE), "READ_MEANWHILE", "warnings")
    assert all(name in warning["message"] for name in (merge, words, expression)), warning
    case.rekeeper("start", case.migration, "--yes").expect(DONE)
    case.host.query(f"SYSTEM RELOAD DICTIONARY {words}")
    assert case.host.value(known) == "1" and case.count(merge) == case.count(expression) == ROWS


def test_what_cannot_be_read_does_not_fail_the_host(case):
    """A database of a server that does not answer, a Merge table of a bad expression, and what the user may not see."""
    case.host.query("CREATE DATABASE foreign_one ENGINE = PostgreSQL('127.0.0.1:1', 'x', 'u', 'p')")
    denied = [
        {"pattern": f"FROM {table}\\b", "code": 497, "message": "Not enough privileges"}
        for table in ("system.settings_profile_elements", "system.query_log", "system.dictionaries")
    ]
    # A server would not have made it; one of another release may have.
    bad = {"pattern": "WHERE engine = 'Merge'", "instead": "SELECT 'd', 'bad', 'Merge(\\'d\\', \\'[\\')'"}
    try:
        case.host.set_faults(*denied, bad)
        case.plan(DONE)
    finally:
        case.host.query("DROP DATABASE foreign_one")
