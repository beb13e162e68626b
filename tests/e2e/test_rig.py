"""What the other tests rely on: the rig's hosts behave as ClickHouse servers do, and its tools do what they say."""

import contextlib
import http.client
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import programs
import pytest
from clickhouse import StatementFailed
from processes import alive, wait_for
from proof import Proof
from rig import Cluster
from tables import KINDS, Table
from writer import Ledger, Writer

READ_ONLY, UNKNOWN_TABLE, CANCELLED, WRONG_PASSWORD = 242, 60, 394, 516


def table(database: str, name: str = "t", **options) -> Table:
    return Table(database, name, **{"rows": 100, "inserts": 2} | options)


def make(cluster: Cluster, made: Table) -> None:
    for host in cluster.hosts:
        made.create(host)
    made.fill(cluster.hosts)
    for host in cluster.hosts:
        host.query(f"SYSTEM SYNC REPLICA {made.quoted} LIGHTWEIGHT")


def count(host, made: Table) -> int:
    return int(host.value(f"SELECT count() FROM {made.quoted}"))


def is_readonly(host, made: Table) -> bool:
    sql = "SELECT is_readonly FROM system.replicas WHERE database = {d:String} AND table = {t:String}"
    return host.value(sql, d=made.database, t=made.name) == "1"


def failure(host, sql: str) -> int:
    with pytest.raises(StatementFailed) as error:
        host.query(sql)
    return error.value.code


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_replicas_hold_the_same_rows(shared_cluster, kind):
    make(shared_cluster, kind)
    assert [count(host, kind) for host in shared_cluster.hosts] == [kind.rows] * 2
    for host in shared_cluster.hosts:
        host.query(f"DROP TABLE {kind.quoted} SYNC")


def test_permanently_detached_table_stays_so_over_a_restart(shared_cluster, database):
    detached, attached = table(database, "detached"), table(database, "attached")
    host = shared_cluster.hosts[0]
    make(shared_cluster, detached)
    make(shared_cluster, attached)
    host.query(f"DETACH TABLE {detached.quoted} PERMANENTLY SYNC")
    host.query(f"DETACH TABLE {attached.quoted} SYNC")
    host.restart()
    assert failure(host, f"SELECT 1 FROM {detached.quoted}") == UNKNOWN_TABLE
    assert count(host, attached) == 100
    host.query(f"ATTACH TABLE {detached.quoted}")
    assert count(host, detached) == 100


def test_restore_brings_back_a_table_whose_metadata_was_lost(shared_cluster, database):
    made = table(database)
    make(shared_cluster, made)
    for host in shared_cluster.hosts:
        host.query(f"DETACH TABLE {made.quoted} PERMANENTLY SYNC")
    with shared_cluster.zookeeper.client() as client:
        client.delete(f"/tables/01/{database}/t", recursive=True)
    for host in shared_cluster.hosts:
        host.query(f"ATTACH TABLE {made.quoted}")
    first, second = shared_cluster.hosts
    assert is_readonly(first, made) and is_readonly(second, made)
    assert failure(first, f"INSERT INTO {made.quoted} (id) VALUES (1)") == READ_ONLY
    for host in (first, second):
        host.query(f"SYSTEM RESTORE REPLICA {made.quoted}")
        host.query(f"SYSTEM SYNC REPLICA {made.quoted} LIGHTWEIGHT")
    assert [count(host, made) for host in shared_cluster.hosts] == [100, 100]
    second.query(f"INSERT INTO {made.quoted} (id) VALUES (1000)")
    wait_for(lambda: count(first, made) == 101, "the new row to be replicated")


def test_killed_host_leaves_its_session_behind_and_a_stopped_one_does_not(shared_cluster, database):
    made = table(database)
    make(shared_cluster, made)
    first, second = shared_cluster.hosts
    active = f"SELECT active_replicas FROM system.replicas WHERE database = '{database}'"
    second.kill()
    assert first.value(active) == "2"
    wait_for(lambda: first.value(active) == "1", "the session of the killed host to expire")
    second.start()
    wait_for(lambda: first.value(active) == "2", "the host to be active again")
    second.stop()
    assert first.value(active) == "1"
    second.start()
    wait_for(lambda: first.value(active) == "2", "the host to be active again")


def test_statements_are_seen_and_killed_by_their_query_id(shared_cluster):
    host = shared_cluster.hosts[0]
    slow = "SELECT sleepEachRow(1) FROM numbers(100) SETTINGS max_block_size = 1"
    seen = "SELECT query FROM system.processes WHERE query_id = 'of-a-test'"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.query, slow, query_id="of-a-test")
        wait_for(lambda: host.query(seen) == [[slow]], "the statement to run")
        with pytest.raises(StatementFailed, match="already running"):
            host.query("SELECT 1", query_id="of-a-test")
        host.query("KILL QUERY WHERE query_id = 'of-a-test' SYNC")
        assert running.exception().code == CANCELLED
    assert host.query(seen) == []


def test_fault_switch_fails_a_statement_as_often_as_it_is_told(shared_cluster):
    host = shared_cluster.hosts[0]
    host.set_faults({"pattern": "select 42", "code": 999, "message": "Session expired", "times": 2})
    assert [failure(host, "SELECT 42"), failure(host, "SELECT 42")] == [999, 999]
    assert host.value("SELECT 42") == "42"
    assert host.value("SELECT 41") == "41"


def test_fault_switch_holds_a_statement_until_it_is_let_go(shared_cluster):
    host = shared_cluster.hosts[0]
    host.set_faults({"pattern": "SELECT 'held'", "wait": True})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(host.value, "SELECT 'held'")
        wait_for(lambda: [r for r in host.query_log("held") if r["sql"] == "SELECT 'held'"], "the statement to be held")
        assert not answer.done()
        host.clear_faults()
        assert answer.result(timeout=10) == "held"


def test_fault_switch_loses_the_answer_of_an_executed_statement(shared_cluster, database):
    made = table(database)
    make(shared_cluster, made)
    host = shared_cluster.hosts[0]
    insert = f"INSERT INTO {made.quoted} (id) VALUES"
    host.set_faults({"pattern": r"VALUES \(1000\)", "drop": True, "after": True})
    with pytest.raises(ConnectionError):
        host.query(f"{insert} (1000)")
    assert count(host, made) == 101
    host.set_faults({"pattern": r"VALUES \(1001\)", "drop": True})
    with pytest.raises(ConnectionError):
        host.query(f"{insert} (1001)")
    assert count(host, made) == 101


def test_restart_command_gives_a_new_process_and_keeps_the_rows(shared_cluster, database):
    made = table(database)
    make(shared_cluster, made)
    host = shared_cluster.hosts[0]
    before = host.pid
    subprocess.run([sys.executable, programs.HERE / "rig.py", "restart", host.directory], check=True)
    assert host.pid != before and not alive(before) and host.is_running
    assert count(host, made) == 100


def test_proof_finds_what_is_lost_and_what_is_there_twice(shared_cluster, database, tmp_path):
    made = table(database)
    make(shared_cluster, made)
    proof, ledger = Proof(shared_cluster.directory), Ledger(tmp_path / "ledger.jsonl")
    before = proof.record()
    with Writer(shared_cluster.shards(), [(database, "t")], ledger, rate=50) as writer:
        writer.wait_for_inserts(10)

    def problems() -> str:
        return proof.check(before, ledger, same_metadata=True)[0][4]

    assert problems() == ""
    assert "not new" in proof.check(before, ledger)[0][4]
    some_row = next(iter(ledger.rows("01", database, "t")))
    shared_cluster.hosts[0].query(f"INSERT INTO {made.quoted} (id) VALUES ({some_row})")
    assert "there twice" in problems()
    shared_cluster.hosts[0].query(f"ALTER TABLE {made.quoted} DELETE WHERE id = {some_row} SETTINGS mutations_sync = 2")
    assert "1 acknowledged rows are missing" in problems()
    shared_cluster.hosts[0].query(f"ALTER TABLE {made.quoted} DELETE WHERE id = 5 SETTINGS mutations_sync = 2")
    assert "99 of 100 rows" in problems()


def test_http_interface_takes_forms_chunks_and_settings(shared_cluster):
    """The ways in which ClickHouse's own Rust client sends a statement."""
    host = shared_cluster.hosts[0]

    def post(url: str, body, content_type: str = "text/plain") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", host.port)
        with contextlib.closing(connection):
            connection.request("POST", url, body, {"Content-Type": content_type})
            return connection.getresponse().read()

    form = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("query", "SELECT {name:String} AS v"), ("param_name", "it's"))
    )
    answer = post("/?default_format=RowBinaryWithNamesAndTypes", f"{form}--x--\r\n", "multipart/form-data; boundary=x")
    assert answer == b"\x01\x01v\x06String\x04it's"
    assert post("/", iter([b"SELECT ", b"1"])) == b"1\n"
    threads = "SELECT getSetting('max_threads')"
    before = host.value(threads)
    assert post("/?max_threads=3", threads) == b"3\n"
    assert host.value(threads) == before


def test_a_host_can_ask_for_a_password():
    with Cluster(shards=1, replicas=1, password="it's secret") as cluster:
        host = cluster.hosts[0]
        assert host.value("SELECT 1") == "1"
        host.password = "wrong"
        assert failure(host, "SELECT 1") == WRONG_PASSWORD


def test_zookeeper_command_leaves_nothing_behind():
    command = [sys.executable, programs.HERE / "rig.py", "zookeeper", "--owner-pid"]
    owner = subprocess.Popen(["sleep", "1000"])
    server = subprocess.Popen([*command, str(owner.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    word, port = server.stdout.readline().split()
    assert word == "ready" and int(port) > 0
    (java,) = children(server.pid)
    owner.kill()
    owner.wait()
    server.wait(timeout=30)
    wait_for(lambda: not alive(java), "ZooKeeper to be gone")


def test_everything_ends_with_a_test_that_is_killed():
    script = (
        f"import sys; sys.path.insert(0, {str(programs.HERE)!r}); from rig import Cluster\n"
        "with Cluster(1, 1) as c: print(c.hosts[0].pid, c.zookeeper._process.pid, c.directory, flush=True); input()"
    )
    test = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    host, zookeeper, directory = test.stdout.readline().split()
    test.send_signal(signal.SIGKILL)
    test.wait()
    wait_for(lambda: not alive(int(host)) and not alive(int(zookeeper)), "the processes of a killed test to end")
    shutil.rmtree(directory)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
