"""Steps of docs/runbook.md that are for the day on which something is lost, as they stand there: STORED_DOCUMENT_LOST, and
3 and 4 of `When the coordinator's store is lost`."""

import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
import runbook
import tables
from clickhouse import StatementFailed
from held import PATH, Request, let_commands_wait
from one_table import FIRST, SECOND, OneTable
from processes import wait_for
from programs import DONE
from rig import Cluster
from tables import Table
from zookeeper_proxy import ZooKeeperProxy

LOST = "When the coordinator's store is lost"


class Stored(OneTable):
    """A migration that stands after the deletion, and a document of it that the coordinator loses."""

    def __init__(self, cluster: Cluster, name: str):
        tables.create(cluster.shards(), [Table("shop", name, rows=60)])
        super().__init__(cluster, name, 60)
        self.plan().expect(DONE)
        cluster.rekeeper("start", name, "--until", "zk-cleaned", "--yes").expect(DONE)

    @property
    def store(self):
        return self.cluster.coordinator.directory / "data" / "rekeeper.sqlite"

    def lose_documents(self) -> None:
        """While the coordinator runs."""
        with sqlite3.connect(self.store) as store:
            assert store.execute("DELETE FROM document").rowcount
        store.close()

    def lost_digest(self) -> str:
        """What the problem names."""
        self.cluster.rekeeper("start", self.name, "--yes")
        status = self.cluster.rekeeper.wait_for_state(self.name, "FAILED", timeout=60)
        problem = next(table["problem"] for table in status["tables"] if table["problem"])
        assert problem["code"] == "STORED_DOCUMENT_LOST"
        return re.search(r"[0-9a-f]{64}", problem["message"])[0]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper, whose agents reach ZooKeeper through a proxy."""
    with Cluster(shards=1, replicas=2) as made:
        proxy = ZooKeeperProxy(made.zookeeper.port)
        made.start_rekeeper(proxy)
        let_commands_wait(made)
        made.proxy = proxy
        yield made
        proxy.close()


def shell(command: str) -> str:
    """As somebody types it."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, (command, done)
    return done.stdout


def with_sqlite3(command: str, tmp_path) -> str:
    """The command, with a program of Python's own SQLite where none is installed."""
    if shutil.which("sqlite3"):
        return command
    program = tmp_path / "sqlite3"
    program.write_text(
        "import pathlib, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.create_function('readfile', 1, lambda name: pathlib.Path(name).read_bytes())\n"
        "for statement in sys.argv[2].split(';'):\n"
        "    db.execute(statement)\n"
    )
    return command.replace("sqlite3 ", f"python3 {program} ", 1)


@pytest.mark.parametrize("source", ["agent", "backup"])
def test_stored_document_lost(cluster, tmp_path, source):
    case = Stored(cluster, f"stored_{source}")
    backup = tmp_path / "backup"
    backup.mkdir()
    with sqlite3.connect(case.store) as store:
        store.execute("VACUUM INTO ?", [str(backup / "rekeeper.sqlite")])
    case.lose_documents()
    digest = case.lost_digest()
    code = "STORED_DOCUMENT_LOST"
    if source == "agent":
        find, copy = runbook.block(code, "for f in"), runbook.block(code, 'sqlite3 DATA_DIR/rekeeper.sqlite "INSERT')
        listed = ""
        for agent in cluster.agents.values():
            folder = agent.folder(case.name)
            if any(folder.glob("*.record")) or any(folder.glob("*.manifest")):
                here = find.replace("STATE_DIR", str(agent.state)).replace("NAME", case.name)
                listed += shell(f"shopt -s nullglob; {here}")
        print(listed)
        (file,) = [line.split()[-1] for line in listed.splitlines() if line.startswith(digest)]
        command = copy.replace("FILE", file)
    else:
        command = runbook.block(code, 'sqlite3 DATA_DIR/rekeeper.sqlite "ATTACH').replace("BACKUP", str(backup))
    command = command.replace("DATA_DIR", str(case.store.parent)).replace("DIGEST", digest)
    shell(with_sqlite3(command, tmp_path))
    case.retry_finishes()


def step(number: int) -> str:
    """A step by the number that people see."""
    return runbook.steps(LOST)[number - 1]


def all_is_lost(cluster: Cluster, name: str) -> None:
    """1 and 2: everything stops, state and store are gone, and the tables are attached with merges stopped."""
    for program in [cluster.coordinator, *cluster.agents.values()]:
        program.kill()
    for agent in cluster.agents.values():
        moved = runbook.spans(step(1), "mv")[0].replace("STATE_DIR", str(agent.state))
        shutil.rmtree(f"{agent.state}.lost.{name}", ignore_errors=True)  # That of the test before.
        shell(moved.replace(".lost", f".lost.{name}"))
    shutil.rmtree(cluster.coordinator.directory / "data")
    for host in cluster.hosts:
        (asked, _) = runbook.spans(step(2), "SELECT")
        if ["shop", name] in host.query(asked):
            (attach,) = runbook.spans(step(2), "ATTACH TABLE db.t")
            try:
                host.query(runbook.of(attach, "shop", name))
            except StatementFailed as refused:
                assert "Code: 253" in str(refused) and "refused with 253" in step(2)
                continue
        (stop,) = runbook.spans(step(2), "SYSTEM STOP MERGES")
        host.query(runbook.of(stop, "shop", name))


def begin_anew(cluster: Cluster) -> None:
    """6, but for the witness, and 7."""
    cluster.coordinator.start()
    for agent in cluster.agents.values():
        agent.start()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)


class Held(OneTable):
    """A migration of `shop.held` that is killed in a step that a request to ZooKeeper holds."""

    def __init__(self, cluster: Cluster, hold: Request):
        cluster.query_all("DROP TABLE IF EXISTS shop.held SYNC")
        tables.create(cluster.shards(), [Table("shop", "held", rows=60)])
        super().__init__(cluster, "held", 60)
        self.plan().expect(DONE)
        self.hold = hold

    def lose(self) -> None:
        rig, output = self.cluster, self.cluster.directory / "start.out"
        rig.cluster = rig  # As held.py wants it.
        self.hold.arm(rig)
        following = rig.rekeeper.background("start", self.name, "--yes", output=output)
        try:
            wait_for(lambda: self.hold.held(rig), lambda: f"{rig.rekeeper('status', self.name)}", timeout=60)
            self.before_the_kill()
            all_is_lost(rig, self.name)
        finally:
            following.terminate()
            following.wait()
            rig.proxy.let_go()

    def before_the_kill(self) -> None:
        """What the case does while it is held."""

    def state(self, host: str) -> list[str]:
        sql = "SELECT is_readonly, zookeeper_exception FROM system.replicas WHERE table = 'held'"
        return self.cluster.host(host).query(sql)[0]

    def is_readonly(self) -> None:
        for host in (FIRST, SECOND):
            wait_for(lambda host=host: self.state(host)[0] == "1" and self.state(host)[1], f"{host} to be read-only")

    def starts_merges(self) -> None:
        (start,) = runbook.spans(step(6), "SYSTEM START MERGES")
        self.cluster.query_all(runbook.of(start, "shop", "held"))


def test_lost_while_the_marker_held_the_path(cluster):
    """3: nothing was deleted; the marker goes, and the table is as before."""

    class Marked(Held):
        def before_the_kill(self) -> None:
            # The marker passes; what is read under it does not.
            cluster.proxy.hold(".*", f"{PATH}/replicas/r2/parts")
            wait_for(lambda: cluster.proxy.held, "the set to be read under the marker")

    case = Marked(cluster, Request("multi", f"{PATH}/rekeeper-[\\w-]*"))
    case.lose()
    detached = "SELECT count() FROM system.detached_tables WHERE table = 'held'"
    assert {host.value(detached) for host in cluster.hosts} == {"1"}, "ATTACH was not refused"
    with cluster.zookeeper.client() as client:
        # delete `<path>/rekeeper-NAME-<number>` and the `is_active` of each replica there
        assert [span.split("/")[-1] for span in runbook.spans(step(3))[:2]] == ["rekeeper-NAME-<number>", "is_active"]
        (marker,) = [node for node in client.get_children(PATH) if re.fullmatch(r"rekeeper-held-\d+", node)]
        client.delete(f"{PATH}/{marker}")
        for replica in client.get_children(f"{PATH}/replicas"):
            client.delete(f"{PATH}/replicas/{replica}/is_active")
        # give `<path>/log` the permissions of `<path>` again
        assert runbook.spans(step(3))[2:4] == ["<path>/log", "<path>"]
        client.set_acls(f"{PATH}/log", client.get_acls(PATH)[0])
    (again,) = runbook.spans(step(3), "ATTACH TABLE")
    for host in cluster.hosts:
        host.query(runbook.of(again, "shop", "held"))
    for host in (FIRST, SECOND):
        wait_for(lambda host=host: case.state(host)[0] == "0", lambda host=host: f"{host}: {case.state(host)}")
    case.starts_merges()
    assert case.counts() == {60}
    begin_anew(cluster)


def test_lost_while_the_nodes_were_being_deleted(cluster):
    """4 and 5: what is left of the path is deleted, and the replicas are restored one after the other."""
    case = Held(cluster, Request("multi", f"{PATH}/dropped/lock"))
    case.lose()
    case.is_readonly()
    (shown,) = runbook.spans(step(1), "zstdcat")
    folder = shown.removeprefix("zstdcat ").replace("/*.manifest", "").replace("NAME", "held")
    places = [Path(folder.replace("STATE_DIR.lost", f"{agent.state}.lost.held")) for agent in cluster.agents.values()]
    assert any(list(place.glob("*.record")) for place in places), f"no host has a part set of record in {places}"
    with cluster.zookeeper.client() as client:
        assert client.exists(PATH) and not client.exists(f"{PATH}/replicas/r1/metadata")
        (gone,) = runbook.spans(step(4), "deleteall")
        client.delete(gone.removeprefix("deleteall ").replace("<path>", PATH), recursive=True)
    (count,) = runbook.spans(step(5), "SELECT count() FROM")
    (restore,) = runbook.spans(step(5), "SYSTEM RESTORE REPLICA")
    caches = runbook.spans(step(5), "SYSTEM DROP")
    assert len(caches) == 4
    asked = runbook.of(count, "shop", "held")
    assert {host.value(asked) for host in cluster.hosts} == {"60"}
    for host in cluster.hosts:
        host.query(runbook.of(restore, "shop", "held"))
        host.query("SYSTEM SYNC REPLICA shop.held LIGHTWEIGHT")
        for cache in caches:
            host.query(cache)
        assert host.value(asked) == "60"
    case.starts_merges()
    case.is_whole()
    begin_anew(cluster)
    # And it can be migrated again, with the two rows that the proof has written.
    case.plan().expect(DONE)
    cluster.rekeeper("start", "held", "--yes").expect(DONE)
    assert case.counts() == {62}
