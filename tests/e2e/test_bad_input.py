"""What is wrong around Rekeeper when a plan is made or started: a clear error, the exit code, and nothing is changed."""

import subprocess

import pytest
import tables
from processes import wait_for
from programs import BLOCKED, DONE, USAGE, binary
from rig import Cluster
from tables import Table


@pytest.fixture(scope="module")
def one():
    """One host whose user has a password, and an identity in ZooKeeper; with a table and Rekeeper."""
    with Cluster(shards=1, replicas=1, password="se cret", identity="clickhouse:secret") as cluster:
        tables.create(cluster.shards(), [Table("shop", "orders", rows=60)])
        cluster.start_rekeeper()
        yield cluster


def unchanged(cluster: Cluster) -> None:
    """Nothing that changes anything was sent, and no plan of that name is left."""
    sent = [record["sql"] for record in cluster.hosts[0].query_log() if "DETACH TABLE" in record["sql"]]
    assert sent == [] and cluster.rekeeper("status", "bad").code == USAGE
    with cluster.zookeeper.client() as client:
        assert client.exists("/tables/01/shop/orders/log")


def in_service(cluster: Cluster) -> None:
    """After ZooKeeper was away the server is read-only for a moment."""
    state = "SELECT min(active_replicas), max(is_readonly) FROM system.replicas"
    wait_for(lambda: cluster.hosts[0].query(state) == [["1", "0"]], "the table to be in service", timeout=60)


def test_a_wrong_password_is_said_and_blocks(one):
    agent = one.agents["ch-01-1"]
    file = agent.directory / "clickhouse.password"
    right = file.read_text()
    file.write_text("wrong")
    agent.restart()
    shown = wait_for(
        lambda: "AGENT_NOT_CONNECTED" not in (said := one.rekeeper("plan", "bad", "--host", "ch-01-1").expect(BLOCKED).stdout)
        and said,
        "the agent to be back",
    )
    shown = " ".join(shown.split())
    for words in ("INSPECTION_FAILED", "ch-01-1", "Authentication failed", "clickhouse.password_file of agent.yaml"):
        assert words in shown, shown
    unchanged(one)
    file.write_text(right)
    agent.restart()
    one.rekeeper.wait_for_agents("ch-01-1")


def test_clickhouse_away_at_the_agents_start_and_later(one):
    agent, host = one.agents["ch-01-1"], one.hosts[0]
    host.stop()
    agent.restart()
    blocked = one.rekeeper("plan", "bad", "--host", "ch-01-1").expect(BLOCKED)
    assert "AGENT_NOT_CONNECTED" in blocked.stdout or "INSPECTION_FAILED" in blocked.stdout, blocked
    one.rekeeper.wait_for_agents("ch-01-1")
    blocked = " ".join(one.rekeeper("plan", "bad", "--host", "ch-01-1").expect(BLOCKED).stdout.split())
    assert f"the server at {host.url} (clickhouse.url of agent.yaml) cannot be reached" in blocked, blocked
    host.start()
    # Nobody has to start the agent again.
    wait_for(lambda: one.rekeeper("plan", "later").code == DONE, "the agent to find its server", timeout=60)
    host.stop()
    refused = one.rekeeper("start", "later", "--yes").expect(BLOCKED)
    assert "INSPECTION_FAILED" in refused.stderr or "AGENT_NOT_CONNECTED" in refused.stderr, refused
    assert one.rekeeper.status("later")["state"] == "PLANNED"
    host.start()
    unchanged(one)


def test_zookeeper_away_at_a_plan_and_at_a_start(one):
    one.rekeeper("plan", "zk").expect(DONE)
    one.zookeeper.stop()
    try:
        blocked = one.rekeeper("plan", "bad").expect(BLOCKED)
        assert "ZOOKEEPER_UNREACHABLE" in blocked.stdout, blocked
        refused = one.rekeeper("start", "zk", "--yes").expect(BLOCKED)
        assert "ZOOKEEPER_UNREACHABLE" in refused.stderr, refused
    finally:
        one.zookeeper.start()
    assert one.rekeeper.status("zk")["state"] == "PLANNED"
    unchanged(one)


def test_zookeeper_away_at_the_agents_start(one):
    in_service(one)
    agent = one.agents["ch-01-1"]
    one.zookeeper.stop()
    try:
        agent.restart()
        one.rekeeper.wait_for_agents("ch-01-1")
        blocked = one.rekeeper("plan", "bad").expect(BLOCKED).stdout
        assert "ZOOKEEPER_UNREACHABLE" in blocked and one.zookeeper.address in blocked, blocked
    finally:
        one.zookeeper.start()
    # Nobody has to start the agent again.
    wait_for(lambda: one.rekeeper("plan", "zk-again").code == DONE, "the agent to find ZooKeeper", timeout=60)
    unchanged(one)


@pytest.mark.parametrize("identity", ["<identity>clickhouse:wrong</identity>", ""])
def test_a_wrong_zookeeper_identity_blocks(one, identity):
    """ZooKeeper takes any password: a wrong one makes somebody whom the ACLs of the tables do not know."""
    in_service(one)
    name = f"identity-{len(identity)}"
    one.rekeeper("plan", name).expect(DONE)
    agent = one.agents["ch-01-1"]
    agent.use_configuration(lambda text: text.replace("<identity>clickhouse:secret</identity>", identity))
    agent.restart()
    one.rekeeper.wait_for_agents("ch-01-1")
    for said in (
        one.rekeeper("plan", "bad").expect(BLOCKED).stdout,
        one.rekeeper("start", name, "--yes").expect(BLOCKED).stderr,
    ):
        said = " ".join(said.split())
        for words in ("ZOOKEEPER_UNREACHABLE", "on ch-01-1", "<identity>", "clickhouse.config of agent.yaml"):
            assert words in said, said
    assert one.rekeeper.status(name)["state"] == "PLANNED"
    unchanged(one)
    agent.use_configuration(lambda text: text)
    agent.restart()
    one.rekeeper.wait_for_agents("ch-01-1")
    one.rekeeper("plan", f"{name}-again").expect(DONE)


def test_names_that_match_nothing_or_exist(one):
    rekeeper = one.rekeeper
    in_service(one)
    rekeeper("plan", "there").expect(DONE)
    assert "there already" in rekeeper("plan", "there").expect(USAGE).stderr
    # As agents call files of their own.
    for name in ("known-tables.json", "coordinator.json.new", "lock", "migrations"):
        refused = rekeeper("plan", name).expect(USAGE).stderr
        assert name in refused and "state_dir" in refused, refused
        assert f"there is no migration {name}" in rekeeper("status", name).expect(USAGE).stderr
    for arguments in (["--table", "shop.none"], ["--database", "none"], ["--exclude", "表.*"], ["--disk", "none"]):
        assert "nothing was planned" in rekeeper("plan", "bad", *arguments).expect(USAGE).stderr
    for command in ("start", "status", "pause", "resume", "retry", "abort", "problems", "report", "events", "export"):
        assert "there is no migration bad" in rekeeper(command, "bad").expect(USAGE).stderr
    unchanged(one)


def test_every_problem_of_a_configuration_at_once(one, tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text("coordinator: nowhere\nhost: 'a b'\nstate_dirr: x\nparallel: {detach: many}\nclickhouse: 7\n")
    done = subprocess.run(
        [binary("rekeeper-agent"), "--config", file, "--check-config"], capture_output=True, text=True
    )
    assert done.returncode == USAGE
    for words in ("line 3: unknown field `state_dirr`", "line 4: ", "line 5: clickhouse"):
        assert words in done.stderr, done.stderr
