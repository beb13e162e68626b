"""What was in ZooKeeper is in a file before it is deleted: where people are told of it, an agent that is killed while it
writes, and a ZooKeeper that takes small requests only.
"""

import json
import subprocess
from pathlib import Path

import pytest
import tables
from processes import wait_for
from programs import DONE, binary
from proof import Proof, report
from rig import Cluster
from tables import Table
from zookeeper_proxy import ZooKeeperProxy

PATH = "/tables/01/shop/orders"


@pytest.fixture(scope="module")
def one():
    """One host with a table and Rekeeper; its agent reaches ZooKeeper through a proxy."""
    with Cluster(shards=1, replicas=1) as cluster:
        tables.create(cluster.shards(), [Table("shop", "orders", rows=60)])
        cluster.proxy = ZooKeeperProxy(cluster.zookeeper.port)
        cluster.start_rekeeper(cluster.proxy)
        yield cluster
        cluster.proxy.close()


def verified(file: str) -> dict:
    """What `rekeeper-agent znodes --verify` says of a whole export."""
    command = [binary("rekeeper-agent"), "znodes", file, "--verify", "-o", "json"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def add_nodes(cluster: Cluster, count: int, width: int = 40) -> None:
    """So many nodes more, with long names, in one list: as if there had been inserts."""
    with cluster.zookeeper.client() as client:
        for first in range(0, count, 100):
            batch = client.transaction()
            for number in range(first, min(first + 100, count)):
                batch.create(f"{PATH}/blocks/{number:0{width}}", b"all_0_0_0")
            failed = [result for result in batch.commit() if isinstance(result, Exception)]
            assert not failed, failed[0]


def test_dry_run_status_and_report_tell_of_the_export(one):
    rekeeper, proof = one.rekeeper, Proof(one.directory)
    before = proof.record()
    rekeeper("plan", "told", "--restart", "never").expect(DONE)
    steps = [s for host in rekeeper("start", "told", "--dry-run", "-o", "json").json["hosts"] for s in host["steps"]]
    (foretold,) = [a["write_file"] for s in steps if s["step"] == "record" for a in s["actions"] if "write_file" in a]
    assert f"export all nodes to {foretold}" in rekeeper("start", "told", "--dry-run").expect(DONE).stdout
    assert not Path(foretold).parent.exists()
    rekeeper("start", "told", "--yes").expect(DONE)
    (export,) = rekeeper("report", "told", "-o", "json").expect(DONE).json["exports"]
    assert (export.pop("zookeeper_path"), export["file"], export["host"]) == (PATH, foretold, "ch-01-1")
    assert export == rekeeper.status("told")["replica_sets"][0]["export"]
    assert export["sha256"] == verified(foretold)["sum"]["sha256"]
    shown = rekeeper("report", "told").expect(DONE).stdout
    assert f"{foretold} on ch-01-1" in shown and f"sha256 {export['sha256']}" in shown
    assert report(proof.check(before))


def test_what_a_killed_agent_has_begun_to_write_is_replaced(one):
    rekeeper, agent, proof = one.rekeeper, one.agents["ch-01-1"], Proof(one.directory)
    before = proof.record()
    rekeeper("plan", "killed", "--restart", "never").expect(DONE)
    rekeeper("start", "killed", "--until", "detached", "--yes").expect(DONE)
    # Nothing else asks for permissions (getACL) one by one.
    one.proxy.hold("6", PATH)
    following = rekeeper.background("start", "killed", "--yes", output=one.directory / "killed.out")
    folder = agent.folder("killed")
    wait_for(lambda: one.proxy.held, "the export", timeout=60)
    (begun,) = wait_for(lambda: list(folder.glob("*.znodes.new")), "a file that is being written")
    agent.kill()
    one.proxy.let_go()
    assert begun.exists() and not list(folder.glob("*.znodes"))
    begun.write_bytes(b"x" * 1_000_000)
    agent.start()
    rekeeper.wait_for_state("killed", "COMPLETED", timeout=120)
    assert following.wait(timeout=60) == DONE
    (export,) = rekeeper("report", "killed", "-o", "json").expect(DONE).json["exports"]
    assert verified(export["file"])["sum"]["sha256"] == export["sha256"]
    assert [file.name for file in folder.glob("*.znodes*")] == [Path(export["file"]).name]
    assert report(proof.check(before))


@pytest.mark.parametrize(("count", "width"), [(4_000, 40), (1_500, 400)])
def test_zookeeper_takes_small_requests_only(one, count, width):
    """Lists of more than it takes in one request, and, with long names, deletions."""
    rekeeper, proof = one.rekeeper, Proof(one.directory)
    name = f"small-{width}"
    one.zookeeper.packet_bytes = 100_000
    one.hosts[0].stop()
    one.zookeeper.stop()
    one.zookeeper.start()
    # With a session of its own from the beginning: one that lasted over the restart may still end.
    one.hosts[0].start()
    state = "SELECT min(active_replicas), max(is_readonly) FROM system.replicas"
    wait_for(lambda: one.hosts[0].query(state) == [["1", "0"]], "the table to be in service", timeout=60)
    add_nodes(one, count, width)
    before = proof.record()
    rekeeper("plan", name, "--restart", "never").expect(DONE)
    rekeeper("start", name, "--yes").expect(DONE)
    (export,) = rekeeper("report", name, "-o", "json").expect(DONE).json["exports"]
    assert export["nodes"] > count and verified(export["file"])["sum"]["nodes"] == export["nodes"]
    assert report(proof.check(before))
