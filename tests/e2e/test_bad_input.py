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
    """One host whose ClickHouse user has a password, with a table and Rekeeper."""
    with Cluster(shards=1, replicas=1, password="se cret") as cluster:
        tables.create(cluster.shards(), [Table("shop", "orders", rows=60)])
        cluster.start_rekeeper()
        yield cluster


def unchanged(cluster: Cluster) -> None:
    """Nothing that changes anything was sent, and no plan of that name is left."""
    sent = [record["sql"] for record in cluster.hosts[0].query_log() if "DETACH TABLE" in record["sql"]]
    assert sent == [] and cluster.rekeeper("status", "bad").code == USAGE
    with cluster.zookeeper.client() as client:
        assert client.exists("/tables/01/shop/orders/log")


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
    assert "INSPECTION_FAILED" in shown and "Authentication failed" in shown and "password in agent.yaml" in shown
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


def test_names_that_match_nothing_or_exist(one):
    rekeeper = one.rekeeper
    # After ZooKeeper was away the server is read-only for a moment.
    wait_for(lambda: rekeeper("plan", "there").code == DONE, "the server to be in service", timeout=60)
    assert "there already" in rekeeper("plan", "there").expect(USAGE).stderr
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
