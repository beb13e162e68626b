"""The coordinator's store rolled back to a backup, copied to a second coordinator, or lost, in the middle of a migration:
it orders nothing and says so, nothing is touched, and the right store, or the runbook, brings every row back."""

import shutil
import time
from pathlib import Path

import pytest
import tables
from processes import wait_for
from programs import BLOCKED, DONE, USAGE, Coordinator, Rekeeper
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

FIRST, SECOND = "ch-01-1", "ch-01-2"
BEHIND = "COORDINATOR_BEHIND"
CACHES = ["MARK", "PRIMARY INDEX", "UNCOMPRESSED", "QUERY CONDITION"]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard with Rekeeper; each case has a table, a migration and what is in the store."""
    with Cluster(shards=1, replicas=2) as made:
        made.start_rekeeper()
        yield made


class Case:
    """A migration of one table."""

    def __init__(self, cluster: Cluster, name: str):
        self.cluster, self.name = cluster, name
        tables.create(cluster.shards(), [Table("shop", name, settings=tables.NEVER_MERGES, rows=60, inserts=6)])
        self.proof = Proof(cluster.directory)
        record = self.proof.record()
        self.before = record | {"replicas": [r for r in record["replicas"] if r["table"] == name]}

    @property
    def path(self) -> str:
        return f"/tables/01/shop/{self.name}"

    @property
    def data(self) -> Path:
        return self.cluster.coordinator.directory / "data"

    def plan(self, name: str = "") -> None:
        command = ["plan", name or self.name, "--table", f"shop.{self.name}", "--restart", "never"]
        self.cluster.rekeeper(*command).expect(DONE)

    def start(self, *options) -> None:
        self.cluster.rekeeper("start", self.name, "--yes", *options).expect(DONE)

    def with_store(self, store: Path | None, starts: int = 1) -> None:
        """Another store, or none, in the place of the coordinator's; what was there is at `<data_dir>.right`."""
        coordinator = self.cluster.coordinator
        coordinator.terminate()
        self.data.rename(f"{self.data}.right")
        if store:
            shutil.copytree(store, self.data)
        for _ in range(starts):
            coordinator.start()
            wait_for(lambda: self.cluster.rekeeper("hosts").code == DONE, "the coordinator to answer")
            coordinator.terminate()
        coordinator.start()
        wait_for(lambda: self.cluster.rekeeper("hosts").code == DONE, "the coordinator to answer")

    def with_the_right_store(self) -> None:
        coordinator = self.cluster.coordinator
        coordinator.terminate()
        shutil.rmtree(self.data)
        Path(f"{self.data}.right").rename(self.data)
        coordinator.start()
        self.cluster.rekeeper.wait_for_agents(FIRST, SECOND)

    def backup(self, name: str) -> Path:
        """A copy of the store, which nobody writes meanwhile."""
        copy = self.cluster.directory / name
        shutil.copytree(self.data, copy)
        return copy

    def changes(self) -> list[tuple]:
        """What was changed so far: statements on the hosts, nodes below the table's path and beside it."""
        words = ("ALTER", "ATTACH", "DETACH", "SYSTEM", "CREATE", "DROP", "RENAME", "INSERT")
        found = []
        for host in self.cluster.hosts:
            found += [(host.name, r["sql"]) for r in host.query_log("start") if r["sql"].lstrip().startswith(words)]
        with self.cluster.zookeeper.client() as client:
            unseen = ["/"]
            while unseen:
                node = unseen.pop()
                stat = client.exists(node)
                if stat and not stat.ephemeralOwner:
                    found.append((node, stat.czxid))
                    unseen += [f"{node.rstrip('/')}/{child}" for child in client.get_children(node)]
        return found

    def orders_nothing(self, rekeeper: Rekeeper, hosts: list[str], order: str = "start") -> None:
        """And says why: with the hosts, and to whoever orders something."""
        before = self.changes()

        def told() -> bool:
            answer = rekeeper("hosts", "-o", "json")
            doing = {h["host"]: h["doing"] or "" for h in answer.json} if answer.code == DONE else {}
            return all("nothing is ordered" in doing.get(host, "") for host in hosts)

        wait_for(told, lambda: f"{rekeeper('hosts')}", timeout=30)
        print(rekeeper("hosts"))
        said = rekeeper(order, self.name).expect(BLOCKED).stderr
        print(said)
        assert BEHIND in said and "runbook" in said and "data_dir" in said
        assert self.changes() == before

    def is_whole(self) -> None:
        assert report(self.proof.check(self.before, Ledger(self.cluster.directory / f"{self.name}.jsonl")))

    def is_completed(self) -> None:
        assert self.cluster.rekeeper.status(self.name)["state"] == "COMPLETED"
        self.is_whole()


@pytest.mark.parametrize("starts", [0, 3])
def test_rolled_back(cluster, starts):
    """To a backup from before the detach. Started often enough its token is higher than all that the agents know."""
    case = Case(cluster, f"rolled_back_{starts}")
    case.plan()
    cluster.coordinator.terminate()
    old = case.backup(f"{case.name}.backup")
    cluster.coordinator.start()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)
    case.start("--until", "restarted")
    case.with_store(old, starts)
    case.orders_nothing(cluster.rekeeper, [FIRST, SECOND])
    case.with_the_right_store()
    case.start()
    case.is_completed()


def test_rolled_back_within_a_run(cluster):
    """The backup was made while the coordinator ran, so its own past has the run that the agents obeyed: the attempts tell;
    and what one agent tells holds for all of them."""
    case = Case(cluster, "within")
    case.plan()
    case.start("--until", "detached")
    old = case.backup("within.backup")
    case.start("--until", "restarted")
    case.with_store(old, starts=1)
    case.orders_nothing(cluster.rekeeper, [FIRST], order="resume")
    assert BEHIND in cluster.rekeeper.status(case.name)["waiting_for"]
    case.with_the_right_store()
    case.start()
    case.is_completed()


def restored_by_hand(cluster: Cluster, table: str, path: str) -> None:
    """What the runbook says under `When the coordinator's store is lost`, for one table that is detached on all hosts."""
    name = f"shop.{table}"
    for host in cluster.hosts:
        detached = host.query("SELECT database, table FROM system.detached_tables WHERE is_permanently")
        if ["shop", table] in detached:
            host.query(f"ATTACH TABLE {name}")
        host.query(f"SYSTEM STOP MERGES {name}")
    state = f"SELECT is_readonly, zookeeper_exception FROM system.replicas WHERE table = '{table}'"

    def is_decided(host) -> bool:
        ((readonly, exception),) = host.query(state)
        return readonly == "0" or "No node" in exception

    for host in cluster.hosts:
        wait_for(lambda host=host: is_decided(host), lambda host=host: f"{host.query(state)}", timeout=30)
    with cluster.zookeeper.client() as client:
        cleaned = not client.exists(path)
    if cleaned:
        expected = {host.value(f"SELECT count() FROM {name}") for host in cluster.hosts}
        assert len(expected) == 1
        for host in cluster.hosts:
            host.query(f"SYSTEM RESTORE REPLICA {name}")
            host.query(f"SYSTEM SYNC REPLICA {name} LIGHTWEIGHT")
            for cache in CACHES:
                host.query(f"SYSTEM DROP {cache} CACHE")
            assert {host.value(f"SELECT count() FROM {name}")} == expected
    for host in cluster.hosts:
        host.query(f"SYSTEM START MERGES {name}")


def begin_anew(cluster: Cluster) -> None:
    """A new store, and agents that know of no other."""
    programs = [cluster.coordinator, *cluster.agents.values()]
    for program in programs:
        program.terminate()
    shutil.rmtree(cluster.coordinator.directory / "data", ignore_errors=True)
    for agent in cluster.agents.values():
        agent.state.rename(agent.directory / f"state.lost.{time.monotonic_ns()}")
    for program in programs:
        program.start()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)


@pytest.mark.parametrize("until", ["detached", "restarted"])
def test_lost(cluster, until):
    """An empty store: what is detached is told, what is to be done is in the runbook, and then all begins anew."""
    case = Case(cluster, f"lost_{until}")
    case.plan()
    case.start("--until", until)
    case.with_store(None, starts=0 if until == "detached" else 3)
    before = case.changes()
    cluster.rekeeper.wait_for_agents(FIRST, SECOND)
    for pattern in ("shop.*", case.name):
        plan = cluster.rekeeper("plan", "anew", "--table", pattern, "-o", "json").expect(BLOCKED).json
        codes = lambda found: {(f["code"], f["host"]) for f in found}  # noqa: E731
        assert codes(plan["blockers"]) >= {(BEHIND, FIRST), (BEHIND, SECOND)}
        unseen = [f for f in plan["warnings"] if f["code"] == "TABLE_DETACHED" and f["table"] == f"shop.{case.name}"]
        assert {f["host"] for f in unseen} == {FIRST, SECOND}
        assert all(f"ATTACH TABLE `shop`.`{case.name}`" in f["message"] and "runbook" in f["fix"] for f in unseen)
    cluster.rekeeper("start", case.name).expect(USAGE)
    assert case.changes() == before

    restored_by_hand(cluster, case.name, case.path)
    shutil.rmtree(f"{case.data}.right")
    begin_anew(cluster)
    case.plan()
    case.start()
    case.is_completed()


@pytest.mark.parametrize("order", ["start", "abort"])
def test_copied(cluster, order):
    """A second coordinator on a copy, to which one of the agents is connected: neither deletes before it has heard both. What
    has obeyed the copy is not taken for what the right one believes."""
    case = Case(cluster, f"copied_{order}")
    case.plan()
    case.start("--until", "detached")
    agent, second = cluster.agents[SECOND], Coordinator(cluster.directory / case.name)
    cluster.coordinator.terminate()
    agent.terminate()
    shutil.copytree(case.data, second.directory / "data")
    right = agent.configuration
    try:
        for program in (cluster.coordinator, second):
            program.start()
        agent.configure(right | {"coordinator": second.url})
        agent.start()
        other = Rekeeper(second)
        other.wait_for_agents(SECOND)
        cluster.rekeeper.wait_for_agents(FIRST)
        before = case.changes()
        for each, unheard, its in ((cluster.rekeeper, SECOND, "start"), (other, FIRST, order)):
            words = [case.name, "--yes"] if its == "start" else [case.name]
            follower = each.background(its, *words, output=cluster.directory / f"{case.name}.out")
            if its == "start":
                silent = f"the agent of {unheard} has not connected"
                waits = lambda each=each, silent=silent: silent in (each.status(case.name)["waiting_for"] or "")  # noqa: E731
            else:
                waits = lambda: other.status(case.name)["counts"]["INIT"] == 1  # noqa: E731
            wait_for(waits, lambda each=each: f"{each('status', case.name)}", timeout=60)
            follower.terminate()
            follower.wait()
        assert order == "abort" or case.changes() == before
    finally:
        second.kill()
        agent.terminate()
        agent.configure(right)
        agent.start()
    if order == "start":
        cluster.rekeeper.wait_for_agents(SECOND)
        case.start()
        return case.is_completed()
    case.orders_nothing(cluster.rekeeper, [SECOND], order="retry")
    restored_by_hand(cluster, case.name, case.path)
    begin_anew(cluster)
    case.plan()
    case.start()
    case.is_completed()
