"""Pause, resume, retry of one host, and abort in every phase: nothing stays detached, no merges stay stopped."""

import contextlib
import re
from dataclasses import dataclass

import pytest
import tables
from held import NAME, PATH, Command, Request, Statement, let_commands_wait
from processes import wait_for
from programs import DONE, PROBLEMS, USAGE
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger
from zookeeper_proxy import ZooKeeperProxy

ONE, OTHER = Table("shop", "held", rows=60, inserts=6), Table("shop", "other", rows=60)
HOSTS = ["ch-01-1", "ch-01-2"]
LASTING = {"code": 497, "message": "Not enough privileges"}


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with two tables and Rekeeper; each test is a migration of its own."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), [ONE, OTHER])
        proxy = ZooKeeperProxy(cluster.zookeeper.port)
        cluster.start_rekeeper(proxy)
        let_commands_wait(cluster)
        cluster.proxy = proxy
        yield cluster
        proxy.close()


@pytest.fixture
def proved(two):
    """What the tables hold is the same afterwards, and merges run on every host."""
    proof, ledger = Proof(two.directory), Ledger(two.directory / "ledger.jsonl")
    before = proof.record()
    yield
    for host in two.hosts:
        host.clear_faults()
    assert report(proof.check(before, ledger, same_metadata=True))
    for table in (ONE, OTHER):
        for host in two.hosts:
            host.query(f"OPTIMIZE TABLE {table.quoted} FINAL SETTINGS optimize_throw_if_noop = 0, alter_sync = 2")
            parts = f"SELECT count() FROM system.parts WHERE active AND database = 'shop' AND table = '{table.name}'"
            wait_for(lambda host=host, parts=parts: host.value(parts) == "1", "merges to run")


def hold(host, pattern: str):
    """Keep a statement back; what is returned waits until one has arrived."""
    host.clear_faults()
    seen = len(host.query_log("held"))
    host.set_faults({"pattern": pattern, "wait": True})
    return lambda: wait_for(lambda: len(host.query_log("held")) > seen, f"{pattern} to arrive", timeout=60)


# Merges, and forgetting what is outdated, are ClickHouse's own work at any time; a table that was restored gets its
# table_shared_id when it is attached the next time.
OF_CLICKHOUSE = re.compile("/(parts|log)/|/log_pointer$|/table_shared_id$")


def trees(cluster: Cluster) -> dict[str, tuple]:
    """The nodes of the tables' paths: content, permissions, whether ephemeral, and the transaction that made them."""
    found, unseen = {}, ["/"]
    with cluster.zookeeper.client() as client:
        while unseen:
            current = unseen.pop()
            children = client.get_children(current) or []
            unseen += [f"{current.rstrip('/')}/{child}" for child in children if current != "/" or child == "tables"]
            data, stat = client.get(current)
            of_session = bool(stat.ephemeralOwner)
            acl = tuple(sorted(str(entry) for entry in client.get_acls(current)[0]))
            if not OF_CLICKHOUSE.search(current):
                found[current] = (None if of_session else data, acl, of_session, None if of_session else stat.czxid)
    return found


def own_nodes(cluster: Cluster) -> list[str]:
    """Everything of Rekeeper's in ZooKeeper."""
    found, unseen = [], ["/"]
    with cluster.zookeeper.client() as client:
        while unseen:
            current = unseen.pop()
            children = client.get_children(current) or []
            unseen += [f"{current.rstrip('/')}/{child}" for child in children]
            found += [child for child in children if "rekeeper" in child]
    return found


def test_pause_sends_nothing_new_and_resume_goes_on(two, proved):
    rekeeper, host = two.rekeeper, two.host("ch-01-2")
    rekeeper("plan", "paused").expect(DONE)
    assert "not running" in rekeeper("pause", "paused").expect(USAGE).stderr
    arrived = hold(host, "^DETACH TABLE")
    following = rekeeper.background("start", "paused", "--yes", output=two.directory / "start.out")
    arrived()
    assert "unavailable meanwhile: " in rekeeper("pause", "paused").expect(DONE).stderr
    host.clear_faults()
    rekeeper.wait_for_state("paused", "PAUSED")
    assert following.wait(timeout=60) == DONE
    wait_for(lambda: not rekeeper.under_way("paused"), "what was under way to end")
    before = [event["seq"] for event in rekeeper.events("paused")]
    # Also of a coordinator that starts anew nothing new comes.
    two.coordinator.restart()
    rekeeper.wait_for_agents(*HOSTS)
    assert [event["seq"] for event in rekeeper.events("paused")] == before
    status = rekeeper.status("paused")
    assert status["state"] == "PAUSED" and status["counts"]["DETACHED"] > 0
    assert f"{status['counts']['DETACHED']} DETACHED" in rekeeper("status", "paused").stdout
    rekeeper("resume", "paused").expect(DONE)
    rekeeper.wait_for_state("paused", "COMPLETED")
    assert "not paused" in rekeeper("resume", "paused").stderr or rekeeper("resume", "paused").code == USAGE


def test_retry_of_one_host_and_of_one_table(two, proved):
    rekeeper = two.rekeeper
    rekeeper("plan", "retried").expect(DONE)
    for host in two.hosts:
        host.set_faults({"pattern": "^SYSTEM START MERGES", **LASTING})
    rekeeper("start", "retried", "--yes").expect(PROBLEMS)
    assert rekeeper.status("retried")["counts"]["failed"] == 4
    for host in two.hosts:
        host.clear_faults()

    def failed() -> set[tuple[str, str]]:
        tables_now = rekeeper.status("retried")["tables"]
        return {(t["table"], t["host"]) for t in tables_now if t["problem"] and t["problem"]["code"] == "MERGES_FAILED"}

    rekeeper("retry", "retried", "--host", "ch-01-1").expect(DONE)
    others = {("held", "ch-01-2"), ("other", "ch-01-2")}
    wait_for(lambda: failed() == others, lambda: f"one host to be through: {failed()}")
    rekeeper("retry", "retried", "--table", "shop.held", "--host", "ch-01-2").expect(DONE)
    wait_for(lambda: failed() == {("other", "ch-01-2")}, lambda: f"one table to be through: {failed()}")
    rekeeper("retry", "retried", "--host", "ch-09-9").expect(USAGE)
    rekeeper("retry", "retried", "--table", "shop.none").expect(USAGE)
    rekeeper("retry", "retried").expect(DONE)
    rekeeper.wait_for_state("retried", "COMPLETED")


@dataclass
class Rig:
    """What holds a step (held.py) is told of the cluster."""

    cluster: Cluster
    proxy: ZooKeeperProxy


@contextlib.contextmanager
def held(cluster: Cluster, name: str, step: str, hold, to_the_end: bool = True):
    """A migration that is started and held in a step of `shop.held`, which has not ended when this is left: unless its
    agent is killed within, since the next one is not held."""
    rig, rekeeper = Rig(cluster, cluster.proxy), cluster.rekeeper
    hold.arm(rig)
    following = rekeeper.background("start", name, "--yes", output=cluster.directory / "start.out")
    try:
        print(name, wait_for(lambda: hold.held(rig), lambda: f"{step}: {rekeeper('status', name)}", timeout=60))
        yield
        if to_the_end:
            assert step in [intent["step"] for intent in rekeeper.under_way(name)], "the step was not interrupted"
    finally:
        hold.let_go(rig)
        following.wait(timeout=120)


def steps_of(cluster: Cluster, name: str) -> set[str]:
    """Everything that was ordered."""
    return {event["step"] for event in cluster.rekeeper.events(name) if event["kind"] == "intent"}


def is_put_back(cluster: Cluster, name: str, before: dict) -> None:
    """Without a trace: state, nodes with their permissions, what is attached, and nothing of Rekeeper's."""
    status = cluster.rekeeper.wait_for_state(name, "ABORTED", timeout=120)
    assert {table["status"] for table in status["tables"]} == {"INIT"} and status["counts"]["failed"] == 0
    # What a replica that starts does in its own time.
    wait_for(lambda: trees(cluster) == before, lambda: f"the nodes of before: {differences(cluster, before)}")
    assert own_nodes(cluster) == []
    for host in cluster.hosts:
        assert host.value("SELECT count() FROM system.detached_tables") == "0"
    assert "clean" not in steps_of(cluster, name)


def differences(cluster: Cluster, before: dict) -> dict:
    """Nodes that are not as they were."""
    now = trees(cluster)
    return {path: (before.get(path), now.get(path)) for path in before | now if before.get(path) != now.get(path)}


MARKER = f"{PATH}/rekeeper-[\\w-]*"
BEFORE_THE_CLEAN = {
    "sync": Statement(f"^SYSTEM SYNC REPLICA {NAME}"),
    "detach": Statement(f"^DETACH TABLE {NAME}", host="ch-01-2"),
    "settle": Request(".*", f"{PATH}/replicas/r2/parts"),
    "record": Request("multi", MARKER),
}


@pytest.mark.parametrize("phase", ["never-started", "detached"])
def test_abort_at_rest_before_the_first_clean_leaves_no_trace(two, proved, phase):
    rekeeper, name, before = two.rekeeper, f"abort-{phase}", trees(two)
    rekeeper("plan", name).expect(DONE)
    if phase == "detached":
        rekeeper("start", name, "--until", "detached", "--yes").expect(DONE)
        assert rekeeper.status(name)["counts"]["DETACHED"] == 4
    rekeeper("abort", name).expect(DONE)
    is_put_back(two, name, before)
    rekeeper("start", name).expect(USAGE)
    assert rekeeper.status(name)["state"] == "ABORTED"


@pytest.mark.parametrize("phase", BEFORE_THE_CLEAN)
def test_abort_within_a_step_before_the_first_clean_leaves_no_trace(two, proved, phase):
    rekeeper, name, before = two.rekeeper, f"abort-in-{phase}", trees(two)
    # That of `other` would go on meanwhile.
    rekeeper("plan", name, "--table", "shop.held").expect(DONE)
    with held(two, name, phase, BEFORE_THE_CLEAN[phase]):
        assert "every table is put back" in rekeeper("abort", name).expect(DONE).stderr
        assert rekeeper.status(name)["state"] == "RUNNING"
    is_put_back(two, name, before)


@pytest.mark.parametrize("again", ["", "coordinator", "agent"])
def test_abort_while_the_marker_holds_the_path_leaves_no_trace(two, proved, again):
    """Also when a program is killed meanwhile, so that the marker is that of an attempt nobody works on any more."""
    rekeeper, name, before = two.rekeeper, f"abort-marked-{again}", trees(two)
    rekeeper("plan", name, "--table", "shop.held").expect(DONE)
    with held(two, name, "record", BEFORE_THE_CLEAN["record"], to_the_end=again != "agent"):
        # The marker goes through; what is read under it does not.
        two.proxy.hold(".*", f"{PATH}/replicas/r2/parts")
        wait_for(lambda: two.proxy.held, "the set to be read under the marker")
        (mark,) = own_nodes(two)
        with two.zookeeper.client() as client:
            assert client.exists(f"{PATH}/{mark}")
            assert not client.exists(f"{PATH}/replicas/r1/is_active").ephemeralOwner
        rekeeper("abort", name).expect(DONE)
        if again == "coordinator":
            two.coordinator.kill()
            two.coordinator.start()
        elif again == "agent":
            (intent,) = rekeeper.under_way(name)
            assert intent["step"] == "record"
            two.agents[intent["host"]].kill()
            two.agents[intent["host"]].start()
        rekeeper.wait_for_agents(*HOSTS)
    is_put_back(two, name, before)


AFTER_THE_CLEAN = {
    "clean-begun": ("clean", Request("multi", f"{PATH}/replicas/r1/metadata")),
    "clean-half": ("clean", Request("multi", f"{PATH}/dropped/lock")),
    "restart-hook": ("restart", Command("hook")),
    "restart-command": ("restart", Command("before", host="ch-01-2")),
    "witness": ("witness", Request("multi", "/rekeeper-witness-[\\w-]*-0")),
    "attach": ("attach", Statement(f"^ATTACH TABLE {NAME}")),
    "restore": ("restore", Statement(f"^SYSTEM RESTORE REPLICA {NAME}")),
    "finish": ("finish", Statement(f"^SYSTEM START MERGES {NAME}")),
}


@pytest.mark.parametrize("phase", AFTER_THE_CLEAN)
def test_abort_within_a_step_after_the_clean_goes_forward(two, proved, phase):
    rekeeper, name = two.rekeeper, f"abort-{phase}"
    step, hold = AFTER_THE_CLEAN[phase]
    rekeeper("plan", name, "--restart", "once" if step == "restart" else "never").expect(DONE)
    with held(two, name, step, hold):
        told = rekeeper("abort", name).expect(DONE).stderr
        assert "carried forward, since cleaned already: " in told
    goes_forward(two, name)


def test_abort_at_rest_after_the_clean_goes_forward(two, proved):
    rekeeper, name = two.rekeeper, "abort-zk-cleaned"
    rekeeper("plan", name).expect(DONE)
    rekeeper("start", name, "--until", "zk-cleaned", "--yes").expect(DONE)
    assert "carried forward, since cleaned already: 2 replica sets" in rekeeper("abort", name).expect(DONE).stderr
    goes_forward(two, name)


def goes_forward(cluster: Cluster, name: str) -> None:
    """Every table is in service, on new metadata, but for one that was not cleaned yet when the abort came."""
    status = cluster.rekeeper.wait_for_state(name, "ABORTED", timeout=120)
    assert {t["status"] for t in status["tables"] if t["table"] == "held"} == {"RESTORED"}
    assert {t["status"] for t in status["tables"]} <= {"RESTORED", "INIT"} and status["counts"]["failed"] == 0
    assert own_nodes(cluster) == []
    for host in cluster.hosts:
        assert host.value("SELECT count() FROM system.detached_tables") == "0"
