"""`start --dry-run` changes nothing, proved without asking Rekeeper, and tells what the migration then really does."""

import hashlib
import re
from pathlib import Path

import pytest
import tables
from kazoo.exceptions import NoNodeError
from processes import wait_for
from programs import BLOCKED, DONE, Answer
from proof import Proof, report
from rig import Cluster
from tables import Table

READING = re.compile(r"\s*(/\*.*?\*/\s*)*(SELECT|CHECK GRANT)\b", re.IGNORECASE | re.DOTALL)
TABLES = [Table("shop", "orders", rows=60), Table("shop", "it's `quoted`", rows=60)]
PATH = "/before/tables/01/shop/orders"


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard under a root of their own, with Rekeeper, the tables, and a plan of them."""
    with Cluster(shards=1, replicas=2, root="/before") as cluster:
        tables.create(cluster.shards(), TABLES)
        cluster.start_rekeeper()
        cluster.rekeeper("plan", "m1").expect(DONE)
        yield cluster


def sent(cluster: Cluster) -> list[int]:
    """How many statements each host has received."""
    return [len(host.query_log()) for host in cluster.hosts]


def highest_transaction(cluster: Cluster) -> str:
    """ZooKeeper's highest zxid: it grows with every change and with every session that begins or ends."""
    return re.search(r"^Zxid: (\w+)$", cluster.zookeeper.command("srvr"), re.MULTILINE)[1]


def files(cluster: Cluster) -> dict[str, str]:
    """Every file and folder that a host, the coordinator or an agent keeps, with its content; logs are none of it."""

    def content(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"

    folders = [host.data for host in cluster.hosts] + [agent.state for agent in cluster.agents.values()]
    folders += [host.directory / "object_storage" for host in cluster.hosts] + [cluster.coordinator.directory / "data"]
    return {str(path): content(path) for folder in folders for path in sorted(folder.rglob("*"))}


def run_that_changes_nothing(cluster: Cluster) -> Answer:
    """A dry run with the same state before and after it.

    A host that merges, or removes an outdated part, does so by itself, and is waited for: a dry run that changes
    anything would do so each time.
    """

    def run() -> Answer | None:
        before = highest_transaction(cluster), files(cluster)
        answer = cluster.rekeeper("start", "m1", "--dry-run", "-o", "json").expect(DONE)
        return answer if (highest_transaction(cluster), files(cluster)) == before else None

    return wait_for(run, "a dry run that changes nothing", timeout=60)


def below(cluster: Cluster, path: str) -> set[str]:
    """The path and every node below it."""
    found, unseen = set(), [path]
    with cluster.zookeeper.client() as client:
        while unseen:
            current = unseen.pop()
            try:
                unseen += [f"{current}/{child}" for child in client.get_children(current)]
                found.add(current)
            except NoNodeError:
                pass
    return found


def actions(document: dict, kind: str, **of) -> list[str]:
    """What the steps of a dry run do of one kind."""
    steps = [step for host in document["hosts"] for step in host["steps"]]
    chosen = [step for step in steps if all(step[key] == value for key, value in of.items())]
    return [action[kind] for step in chosen for action in step["actions"] if kind in action]


def test_nothing_is_changed_and_the_migration_does_what_was_told(two):
    rekeeper, proof = two.rekeeper, Proof(two.directory)
    before = proof.record()
    seen = sent(two)
    people = rekeeper("start", "m1", "--dry-run").expect(DONE).stdout
    told = run_that_changes_nothing(two).json
    for host, first in zip(two.hosts, seen, strict=True):
        statements = [record["sql"] for record in host.query_log()[first:]]
        assert statements and [sql for sql in statements if not READING.match(sql)] == []
    assert rekeeper.status("m1")["state"] == "PLANNED" and rekeeper("events", "m1").expect(DONE).stdout == ""

    assert all(line in people for host in told["hosts"] for line in [f"Host {host['host']}\n"])
    everything = [value for kind in ("statement", "run", "create_node", "delete_node") for value in actions(told, kind)]
    assert all(value in people for value in everything)

    # Every node that there is, each once, children before their parents.
    deleted = actions(told, "delete_node", step="clean", target="/tables/01/shop/orders")
    lasting = {node for node in deleted if "rekeeper-m1" not in node and not node.startswith(f"{PATH}/dropped")}
    assert lasting == below(two, PATH)
    assert len(set(deleted)) == len(deleted)
    place = {node: number for number, node in enumerate(deleted)}
    assert all(place[node] < place[node.rpartition("/")[0]] for node in deleted if node != PATH)

    # The statements of each host, and only those, when nothing fails.
    seen = sent(two)
    rekeeper("start", "m1", "--yes").expect(DONE)
    for host, first in zip(two.hosts, seen, strict=True):
        really = [record["sql"].split("*/")[-1].strip() for record in host.query_log()[first:]]
        really = [sql for sql in really if not READING.match(sql)]
        expected = [step for of in told["hosts"] if of["host"] == host.name for step in of["steps"]]
        expected = [action["statement"] for step in expected for action in step["actions"] if "statement" in action]
        assert set(really) == set(expected)
        for table in "`orders`", "quoted":
            assert first_ones(really, table) == first_ones(expected, table)
    # As many nodes as were told: the markers and what is made only for the deletion are counted by neither.
    sets = rekeeper.status("m1")["replica_sets"]
    assert {s["zookeeper_path"]: s["znodes_deleted"] for s in sets}["/tables/01/shop/orders"] >= len(lasting)
    assert report(proof.check(before))
    rekeeper("start", "m1", "--dry-run").expect(DONE)


def first_ones(statements: list[str], table: str) -> list[str]:
    """The different statements on one table, in order: a SYNC may be sent more than once."""
    return list(dict.fromkeys(sql for sql in statements if table in sql))


def test_a_dry_run_goes_to_the_barrier_and_makes_the_checks(two):
    rekeeper = two.rekeeper
    rekeeper("plan", "m2", "--table", "shop.orders").expect(DONE)
    told = rekeeper("start", "m2", "--dry-run", "--until", "detached", "-o", "json").expect(DONE).json
    assert {step["step"] for host in told["hosts"] for step in host["steps"]} == {"sync", "detach", "settle"}
    ghost = f"{PATH}/replicas/ghost"
    with two.zookeeper.client() as client:
        client.create(ghost)
        answer = rekeeper("start", "m2", "--dry-run").expect(BLOCKED)
        client.delete(ghost)
    assert "REPLICA_NOT_PLANNED" in answer.stderr and answer.stdout == ""
