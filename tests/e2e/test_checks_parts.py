"""Parts that a restore would lose: those that an ALTER has not rewritten, and those on a disk that takes no writes."""

import contextlib
import subprocess

import pytest
from processes import wait_for
from programs import BLOCKED, DONE, USAGE
from rig import Cluster

ROWS = 40
SUM = str(sum(range(ROWS)))


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with Rekeeper, and a storage policy of two disks."""
    cluster = Cluster(shards=1, replicas=2)
    for host in cluster.hosts:
        disks = "".join(f"<{n}><type>local</type><path>{host.directory}/{n}/</path></{n}>" for n in ("one", "two"))
        policy = "<volumes><a><disk>one</disk></a><b><disk>two</disk></b></volumes>"
        # On a machine that is nearly full the server would move parts by itself.
        policy += "<move_factor>0</move_factor>"
        text = host.config.read_text()
        text = text.replace("</disks>", f"{disks}</disks>").replace("</policies>", f"<mixed>{policy}</mixed></policies>")
        host.config.write_text(text)
    with cluster:
        cluster.query_all("CREATE DATABASE checks")
        cluster.start_rekeeper()
        yield cluster


def make(cluster: Cluster, name: str, settings: str = "") -> str:
    """A table on both hosts."""
    cluster.query_all(
        f"CREATE TABLE checks.{name} (a UInt64, b UInt64) ENGINE = ReplicatedMergeTree('/checks/{name}', '{{replica}}')"
        f" ORDER BY a PARTITION BY a % 2 {'SETTINGS ' + settings if settings else ''}"
    )
    cluster.hosts[0].query(f"INSERT INTO checks.{name} SELECT number, number FROM numbers({ROWS})")
    cluster.hosts[1].query(f"SYSTEM SYNC REPLICA checks.{name}")
    return f"checks.{name}"


def rename_pending(cluster: Cluster, table: str) -> None:
    """Both replicas have the new definition, and parts of the former one."""
    cluster.query_all(f"SYSTEM STOP MERGES {table}")
    cluster.hosts[0].query(f"ALTER TABLE {table} RENAME COLUMN b TO c SETTINGS alter_sync = 0")
    for host in cluster.hosts:
        name = table.partition(".")[2]
        pending = f"SELECT count() FROM system.mutations WHERE table = '{name}' AND NOT is_done"
        wait_for(lambda host=host, pending=pending: host.value(pending) == "1", "the ALTER to arrive")
        columns = f"SELECT count() FROM system.columns WHERE table = '{name}' AND name = 'c'"
        wait_for(lambda host=host, columns=columns: host.value(columns) == "1", "the new definition")


def test_a_column_that_is_being_renamed(two):
    table = make(two, "renamed")
    rename_pending(two, table)
    rekeeper = two.rekeeper
    for allowed in [], ["--allow", "MUTATIONS_UNFINISHED"]:
        found = rekeeper("plan", "renamed", "--table", table, *allowed, "-o", "json").expect(BLOCKED).json["blockers"]
        assert {(finding["code"], finding["host"]) for finding in found} == {
            ("ALTER_UNFINISHED", host.name) for host in two.hosts
        }
        assert all("RENAME COLUMN b TO c" in finding["message"] for finding in found)
        assert all("do not KILL MUTATION" in finding["fix"] for finding in found)
    rekeeper("plan", "renamed", "--table", table, "--allow", "ALTER_UNFINISHED").expect(USAGE)
    two.query_all(f"SYSTEM START MERGES {table}")
    done = "SELECT min(is_done) FROM system.mutations WHERE table = 'renamed'"
    for host in two.hosts:
        wait_for(lambda host=host: host.value(done) == "1", "the mutation to finish")
    rekeeper("plan", "renamed", "--table", table).expect(DONE)


def test_a_column_that_is_renamed_after_the_checks(two):
    """Where mutations that only write values may be forgotten: the set settles without it, or is not touched."""
    table, rekeeper = make(two, "later"), two.rekeeper
    rekeeper("plan", "later", "--table", table, "--allow", "MUTATIONS_UNFINISHED", "--restart", "never").expect(DONE)
    before = {host.name: len(host.query_log("held")) for host in two.hosts}
    for host in two.hosts:
        host.set_faults({"pattern": "^SYSTEM SYNC REPLICA `checks`.`later`", "wait": True})
    following = rekeeper.background("start", "later", "--yes", output=two.directory / "later.out")
    try:
        for host in two.hosts:
            wait_for(lambda host=host: len(host.query_log("held")) > before[host.name], "the sync to be sent")
        rename_pending(two, table)
        for host in two.hosts:
            host.clear_faults()
        following.wait(timeout=120)
    finally:
        following.terminate()
        following.wait()
    for host in two.hosts:
        host.clear_faults()
        wait_for(lambda host=host: host.query("SELECT 1 FROM system.replicas WHERE table = 'later'"), "the table to be attached")
        assert host.value(f"SELECT sum(c) FROM {table}") == SUM


@contextlib.contextmanager
def read_only(folder):
    """Mounted so, as a disk that its kernel has given up is."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_takes_no_writes(two):
    table, rekeeper = make(two, "disk", "storage_policy = 'mixed'"), two.rekeeper
    other = make(two, "other")
    for host in two.hosts:
        host.query(f"ALTER TABLE {table} MOVE PARTITION 1 TO DISK 'two'")
    rekeeper("plan", "before", "--table", table, "--restart", "never").expect(DONE)
    host = two.hosts[1]
    with read_only(host.directory / "two"):
        found = rekeeper("plan", "disk", "--table", table, "-o", "json").expect(BLOCKED).json["blockers"]
        assert [(finding["code"], finding["host"], finding["table"]) for finding in found] == [
            ("DISK_UNWRITABLE", host.name, table)
        ]
        assert "disk two" in found[0]["message"] and "Read-only file system" in found[0]["message"]
        assert "DISK_UNWRITABLE" in rekeeper("start", "before", "--yes").expect(BLOCKED).stderr
        # Nor is a table without parts there in the way.
        rekeeper("plan", "other", "--table", other).expect(DONE)
    rekeeper("start", "before", "--yes").expect(DONE)
    for host in two.hosts:
        assert host.value(f"SELECT sum(b) FROM {table}") == SUM
        assert not list(host.directory.glob("*/.rekeeper*"))
