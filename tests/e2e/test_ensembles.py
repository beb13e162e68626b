"""Tables whose metadata lies in two ensembles, under roots, and belongs to the identity of the servers."""

import json
import subprocess
from pathlib import Path

import pytest
from kazoo.exceptions import NoAuthError
from programs import DONE, binary
from rig import Cluster
from zookeeper_server import ZooKeeper

IDENTITY = "clickhouse:secret"
ROOTS = {"default": "/ch", "second": "/aux"}
# Path of each table below the root of its ensemble.
PATHS = {"default": "/tables/main", "second": "/tables/other"}
ROWS = 1000


class TwoEnsembles(Cluster):
    """Two replicas of one shard; each ensemble has a root, and the servers an identity in both."""

    def __init__(self):
        super().__init__(shards=1, replicas=2, root=ROOTS["default"])
        self.second = ZooKeeper(self.directory / "second")
        self.ensembles = {"default": self.zookeeper, "second": self.second}
        identity = f"<identity>{IDENTITY}</identity>"
        for host in self.hosts:
            host.configure(self.zookeeper, root=self.root, auxiliary={"second": self.second})
            text = host.config.read_text()
            text = text.replace("</zookeeper>", f"{identity}</zookeeper>")
            text = text.replace("</second>", f"<root>{ROOTS['second']}</root>{identity}</second>")
            host.config.write_text(text)

    def __enter__(self) -> "TwoEnsembles":
        self.second.start()
        with self.second.client() as client:
            client.ensure_path(ROOTS["second"])
        return super().__enter__()

    def close(self) -> None:
        self.second.kill()
        super().close()

    def nodes(self, ensemble: str, path: str) -> dict[str, int]:
        """Every node from `path` on with the transaction that created it, seen by the servers' identity."""
        found, unseen = {}, [path]
        with self.ensembles[ensemble].client() as client:
            client.add_auth("digest", IDENTITY)
            while unseen:
                current = unseen.pop()
                found[current] = client.exists(current).czxid
                unseen += [f"{current}/{child}" for child in client.get_children(current)]
        return found


@pytest.fixture
def cluster():
    with TwoEnsembles() as cluster:
        cluster.start_rekeeper()
        yield cluster


def znodes(cluster: TwoEnsembles, file: str, *options) -> str:
    """What `rekeeper-agent znodes` prints."""
    command = [binary("rekeeper-agent"), "znodes", file, *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_two_ensembles_with_roots_and_an_identity(cluster):
    cluster.query_all("CREATE DATABASE shop")
    for ensemble, prefix in ("default", ""), ("second", "second:"):
        cluster.query_all(
            f"CREATE TABLE shop.{ensemble} (a UInt64) ENGINE ="
            f" ReplicatedMergeTree('{prefix}{PATHS[ensemble]}', '{{replica}}') ORDER BY a"
        )
        cluster.hosts[0].query(f"INSERT INTO shop.{ensemble} SELECT number FROM numbers({ROWS})")
    # The same paths where the tables are not: outside the roots, and in the other ensemble.
    strange = []
    for ensemble, server in cluster.ensembles.items():
        with server.client() as client:
            client.add_auth("digest", IDENTITY)
            for path in (PATHS[ensemble], *(ROOTS[ensemble] + p for name, p in PATHS.items() if name != ensemble)):
                client.ensure_path(f"{path}/replicas/r1/parts/all_0_0_0")
                client.ensure_path(f"{path}/metadata")
                strange.append((ensemble, path))
    before = {place: cluster.nodes(*place) for place in strange}
    for name in PATHS:
        cluster.query_all(f"SYSTEM SYNC REPLICA shop.{name} LIGHTWEIGHT")
    own = [(name, ROOTS[name] + path) for name, path in PATHS.items()]
    old = {place: cluster.nodes(*place) for place in own}
    for name, path in own:
        with cluster.ensembles[name].client() as client, pytest.raises(NoAuthError):
            client.get_children(path)

    cluster.rekeeper("plan", "m1", "--restart", "never").expect(DONE)
    cluster.rekeeper("start", "m1", "--yes", timeout=300).expect(DONE)
    status = cluster.rekeeper.status("m1")
    assert (status["state"], status["counts"]["RESTORED"]) == ("COMPLETED", 4)

    assert {place: cluster.nodes(*place) for place in strange} == before
    for place in own:
        now = cluster.nodes(*place)
        assert min(now.values()) > max(old[place].values()), "every node is new"
        assert not [node for node in now if "/rekeeper-" in node]
    for host in cluster.hosts:
        for name in PATHS:
            rows = host.query(f"SELECT count(), sum(a) FROM shop.{name}")
            assert rows == [[str(ROWS), str(sum(range(ROWS)))]]
        assert host.query("SELECT sum(is_readonly), min(active_replicas) FROM system.replicas") == [["0", "2"]]

    exports = {replica_set["zookeeper_path"]: replica_set["export"] for replica_set in status["replica_sets"]}
    assert set(exports) == set(PATHS.values())
    for name, path in PATHS.items():
        export = exports[path]
        agent = cluster.agents[export["host"]]
        described = json.loads(znodes(cluster, export["file"], "--verify", "-o", "json"))
        place = described["header"]["place"]
        assert (place["ensemble"], place["chroot"]) == (name, ROOTS[name])
        listed = [json.loads(line) for line in znodes(cluster, export["file"], "-o", "json").splitlines()]
        assert old[name, ROOTS[name] + path].keys() <= {ROOTS[name] + node["path"] for node in listed} | {
            f"{ROOTS[name]}{path}/replicas/{replica}/is_active" for replica in ("r1", "r2")
        }
        assert all(node["acl"][0].startswith("digest:clickhouse") for node in listed)
        # Back in the ensemble where they were, for the eyes of the identity only.
        znodes(cluster, export["file"], "--put-back-at", "/inspect", "--config", agent.configuration_file)
        assert len(cluster.nodes(name, f"{ROOTS[name]}/inspect")) == described["sum"]["nodes"]
        with cluster.ensembles[name].client() as client, pytest.raises(NoAuthError):
            client.get_children(f"{ROOTS[name]}/inspect")
        assert Path(export["file"]).stat().st_size == export["bytes"]
