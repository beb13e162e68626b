"""ClickHouse or ZooKeeper is away, or lets the agent in no more, while a migration is under way: nothing is lost, a clear
problem says where and why, and it goes on by itself or by `retry` when the cause is gone.
"""

import itertools

import pytest
import tables
from processes import wait_for
from programs import DONE, PROBLEMS
from proof import Proof, report
from rig import Cluster
from tables import Table
from zookeeper_proxy import ZooKeeperProxy

IDENTITY = "clickhouse:secret"
PATH = "/tables/01/shop/orders"
HOST = "ch-01-1"
TABLES = ["orders", "returns", "stock"]


class Case:
    """Migrations of three tables on one host, without a restart; its agent reaches ZooKeeper through a proxy."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.host, self.proxy = cluster, cluster.hosts[0], ZooKeeperProxy(cluster.zookeeper.port)
        made = [Table("shop", name, rows=60, settings=tables.NEVER_MERGES, inserts=6) for name in TABLES]
        tables.create(cluster.shards(), made)
        self.rekeeper = cluster.start_rekeeper(self.proxy)
        self.agent = cluster.agents[HOST]
        self._numbers, self._proof = itertools.count(1), Proof(cluster.directory)
        # Set while a migration is under way: what failed leaves a cluster that is of no use to others.
        self.is_dirty = False

    def close(self) -> None:
        """End everything."""
        self.proxy.close()
        self.cluster.close()

    def begin(self, until: str | None = None) -> None:
        """A new migration, brought as far as that."""
        state = "SELECT min(active_replicas), max(is_readonly) FROM system.replicas"
        wait_for(lambda: self.host.query(state) == [["1", "0"]], "the table to be in service", timeout=60)
        self.name, self._before, self.nodes = f"m{next(self._numbers)}", self._proof.record(), self.read_nodes()
        self.is_dirty = True
        self.rekeeper("plan", self.name, "--restart", "never").expect(DONE)
        if until:
            self.rekeeper("start", self.name, "--until", until, "--yes").expect(DONE)

    def read_nodes(self) -> set[str]:
        """The lasting nodes of the table."""
        found, unseen = set(), [PATH]
        with self.cluster.zookeeper.client() as client:
            client.add_auth("digest", IDENTITY)
            while unseen:
                current = unseen.pop()
                stat = client.exists(current)
                if stat and not stat.ephemeralOwner:
                    found.add(current)
                    unseen += [f"{current}/{child}" for child in client.get_children(current)]
        return found

    def fails(self, code: str, *words: str) -> None:
        """Ends with 1, the one cause has the code, is told once, and what is printed has the words."""
        self.rekeeper("start", self.name, "--yes").expect(PROBLEMS)
        problems = {t["table"]: t["problem"] for t in self.rekeeper.status(self.name)["tables"] if t["problem"]}
        for table, problem in problems.items():
            print(table, problem)
        assert {problem["code"] for problem in problems.values()} == {code} and "orders" in problems, problems
        shown = " ".join(self.rekeeper("problems", self.name).expect(DONE).stdout.split())
        for word in (code, f"shop.orders on {HOST}", *words):
            assert word in shown, shown
        assert shown.count(code) == 1 and shown.count("fix") == 1, shown

    def retry_finishes(self) -> None:
        """The cause is gone."""
        self.rekeeper("retry", self.name).expect(DONE)
        self.finishes()

    def finishes(self) -> None:
        """It comes to its end, with every row."""
        state = self.rekeeper.wait_for_state(self.name, "COMPLETED", "FAILED", timeout=120)["state"]
        assert state == "COMPLETED", str(self.rekeeper("problems", self.name))
        assert report(self._proof.check(self._before))
        self.is_dirty = False

    def restart_agent(self) -> None:
        """And wait until it is connected."""
        self.agent.restart()
        self.rekeeper.wait_for_agents(HOST)


@pytest.fixture(scope="module")
def kept():
    """The cluster of the case before, if it can be used again."""
    cases: list[Case] = []
    yield cases
    for case in cases:
        case.close()


@pytest.fixture
def case(kept):
    """One host that has a password, and an identity in ZooKeeper; no migration is unfinished."""
    if kept and kept[0].is_dirty:
        kept.pop().close()
    if not kept:
        cluster = Cluster(shards=1, replicas=1, password="se cret", identity=IDENTITY).__enter__()
        try:
            kept.append(Case(cluster))
        except BaseException:
            cluster.close()
            raise
    return kept[0]


@pytest.fixture
def cluster(case):
    """For the report of a test that failed."""
    return case.cluster


@pytest.mark.parametrize("identity", ["<identity>clickhouse:wrong</identity>", ""])
def test_a_wrong_zookeeper_identity_under_way(case, identity):
    case.begin(until="detached")
    case.agent.use_configuration(lambda text: text.replace(f"<identity>{IDENTITY}</identity>", identity))
    case.restart_agent()
    case.fails("RELEASE_FAILED", "does not let this agent", PATH, "<identity>", "clickhouse.config of agent.yaml")
    assert case.nodes <= case.read_nodes()
    case.agent.use_zookeeper(case.proxy.port)
    case.restart_agent()
    case.retry_finishes()


# What the migration stands at, and whether all nodes are to be there.
AWAY = {"detached": True, "zk-cleaned": False}


@pytest.mark.parametrize("until", AWAY)
def test_zookeeper_away_between_steps(case, until):
    case.begin(until)
    case.cluster.zookeeper.stop()
    try:
        case.fails("ZOOKEEPER_AWAY", f"127.0.0.1:{case.proxy.port}")
    finally:
        case.cluster.zookeeper.start()
    assert not AWAY[until] or case.nodes <= case.read_nodes()
    case.retry_finishes()


def test_zookeeper_away_is_told_once_and_why(case):
    """By ClickHouse alone, which says no more than that its tables are read-only; then it goes on by itself."""
    case.begin()
    held = len(case.host.query_log("held"))
    case.host.set_faults({"pattern": "^SYSTEM SYNC REPLICA", "wait": True})
    following = case.rekeeper.background("start", case.name, "--yes", output=case.cluster.directory / "start.out")
    try:
        wait_for(lambda: len(case.host.query_log("held")) == held + len(TABLES), "the tables to catch up", timeout=60)
        case.cluster.zookeeper.stop()
        case.host.clear_faults()

        def tried_again():
            """What is tried again, once it is all tables and nothing is under way."""
            shown = case.rekeeper("status", case.name).expect(DONE).stdout
            retries = case.rekeeper.status(case.name)["retries"]
            waits = [retry for retry in retries if retry["next_seconds"]]
            return len(waits) == len(TABLES) and "it failed" in shown and (waits, " ".join(shown.split()))

        retries, shown = wait_for(tried_again, "all tables to be tried again", timeout=60)
        print(retries, shown)
        assert {(r["step"], r["host"], r["code"]) for r in retries} == {("sync", HOST, "ZOOKEEPER_AWAY")}, retries
        assert {r["target"] for r in retries} == {f"shop.{table}" for table in TABLES}
        assert all("no session with ZooKeeper" in r["reason"] for r in retries), retries
        # Once in what is waited for, and once for all of them.
        assert shown.count("ZOOKEEPER_AWAY") == 2 and "and 2 more, again in" in shown, shown
        assert "it failed (ZOOKEEPER_AWAY: the ClickHouse server has no session with ZooKeeper" in shown, shown
    finally:
        case.cluster.zookeeper.start()
    case.finishes()
    assert following.wait(timeout=60) == DONE
    assert case.rekeeper.status(case.name)["retries"] == []


# The request in which ZooKeeper goes away.
CLEAN = {"begun": f"{PATH}/replicas/r1/metadata", "half": f"{PATH}/dropped/lock"}


@pytest.mark.parametrize("for_long", [False, True])
@pytest.mark.parametrize("where", CLEAN)
def test_zookeeper_away_in_clean(case, where, for_long):
    case.begin(until="detached")
    case.proxy.hold("multi", CLEAN[where])
    following = case.rekeeper.background("start", case.name, "--yes", output=case.cluster.directory / "start.out")
    try:
        print(wait_for(lambda: case.proxy.held, "the deletion", timeout=60))
        case.cluster.zookeeper.kill()
        case.proxy.let_go()
        if for_long:
            assert following.wait(timeout=120) == PROBLEMS
            case.fails("ZOOKEEPER_AWAY")
    finally:
        case.cluster.zookeeper.start()
        if for_long:
            following.terminate()
    if for_long:
        case.retry_finishes()
    else:
        case.finishes()
        assert following.wait(timeout=60) == DONE


@pytest.mark.parametrize("server", ["ZooKeeper", "ClickHouse"])
@pytest.mark.parametrize("after", [False, True])
def test_away_in_restore(case, server, after):
    """At the statement itself: before it is executed, or when it was and its answer is on the way."""
    case.begin(until="zk-cleaned")
    held = len(case.host.query_log("held"))
    case.host.set_faults({"pattern": "^SYSTEM RESTORE REPLICA", "wait": True, "after": after})
    following = case.rekeeper.background("start", case.name, "--yes", output=case.cluster.directory / "start.out")
    program = case.cluster.zookeeper if server == "ZooKeeper" else case.host
    try:
        wait_for(lambda: len(case.host.query_log("held")) > held, "the restore", timeout=60)
        program.kill()
        case.host.clear_faults()
    finally:
        program.start()
    case.finishes()
    assert following.wait(timeout=60) == DONE


def test_zookeeper_away_for_long_in_restore(case):
    case.begin(until="zk-cleaned")
    held = len(case.host.query_log("held"))
    case.host.set_faults({"pattern": "^SYSTEM RESTORE REPLICA", "wait": True})
    following = case.rekeeper.background("start", case.name, "--yes", output=case.cluster.directory / "start.out")
    try:
        wait_for(lambda: len(case.host.query_log("held")) > held, "the restore", timeout=60)
        case.cluster.zookeeper.stop()
        case.host.clear_faults()
        assert following.wait(timeout=240) == PROBLEMS
        case.fails("ZOOKEEPER_AWAY")
    finally:
        case.cluster.zookeeper.start()
        following.terminate()
    case.retry_finishes()


def test_clickhouse_away_before_attach(case):
    """For less than the agent waits; it says what it waits for."""
    case.begin(until="zk-cleaned")
    case.host.stop()
    try:
        following = case.rekeeper.background("start", case.name, "--yes", output=case.cluster.directory / "start.out")
        words = "waits for the server, which cannot be reached"
        wait_for(lambda: words in (case.rekeeper.status(case.name)["waiting_for"] or ""), words, timeout=60)
    finally:
        case.host.start()
    case.finishes()
    assert following.wait(timeout=60) == DONE


def test_a_wrong_password_under_way(case):
    case.begin(until="zk-cleaned")
    file = case.agent.directory / "clickhouse.password"
    right = file.read_text()
    file.write_text("wrong")
    case.restart_agent()
    case.fails("ATTACH_FAILED", "Authentication failed", "clickhouse.password_file of agent.yaml")
    file.write_text(right)
    case.restart_agent()
    case.retry_finishes()
