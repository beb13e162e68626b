"""The agents' ClickHouse user has what docs/configuration.md grants it, on servers that look at every right: it is enough
for a whole migration, and each right is needed."""

import re

import pytest
from programs import BLOCKED, DONE, REPOSITORY
from real_server import VERSIONS
from rig import Cluster

# As in the config.xml of ClickHouse's packages.
STRICT = """<access_control_improvements>
  <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
  <select_from_information_schema_requires_grant>true</select_from_information_schema_requires_grant>
  <on_cluster_queries_require_cluster_grant>true</on_cluster_queries_require_cluster_grant>
  <table_engines_require_grant>true</table_engines_require_grant>
</access_control_improvements>"""
PASSWORD = "of the agents"


def documented() -> list[str]:
    """The statements, for a database that is called `shop`."""
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    statements = re.findall(r"^    ((?:CREATE USER|GRANT)\b[^;]*);", page, re.MULTILINE)
    assert len(statements) > 2
    return [re.sub(r"\s+", " ", statement).replace("'...'", f"'{PASSWORD}'") for statement in statements]


@pytest.fixture(scope="module", params=VERSIONS)
def cluster(request):
    """Two replicas of one shard on that version; the agents ask the servers as that user."""
    with Cluster(shards=1, replicas=2, engine=request.param) as cluster:
        for host in cluster.hosts:
            host.configure(cluster.zookeeper, more=STRICT)
            host.restart()
        for statement in documented():
            cluster.query_all(statement)
        cluster.query_all("CREATE DATABASE shop")
        cluster.query_all(
            "CREATE TABLE shop.t (id UInt64, v String) ENGINE = ReplicatedMergeTree('/t/{shard}/t', '{replica}') ORDER BY id"
            " PARTITION BY id % 3"
        )
        cluster.hosts[0].query("INSERT INTO shop.t SELECT number, 'x' FROM numbers(300)")
        cluster.start_rekeeper()
        for name, agent in cluster.agents.items():
            file = agent.directory / "password"
            file.write_text(PASSWORD)
            file.chmod(0o600)
            access = {"url": cluster.host(name).server_url, "user": "rekeeper", "password_file": str(file)}
            agent.configure(agent.configuration | {"clickhouse": agent.configuration["clickhouse"] | access})
            agent.restart()
        cluster.rekeeper.wait_for_agents(*cluster.agents)
        yield cluster


@pytest.mark.parametrize("restart", ["once", "never"])
def test_a_migration_needs_no_more(cluster, restart):
    """From the plan to the end, with rows that stay."""
    cluster.rekeeper("plan", restart, "--table", "shop.t", "--restart", restart).expect(DONE)
    cluster.rekeeper("start", restart, "--yes").expect(DONE)
    for host in cluster.hosts:
        assert host.query("SELECT count(), uniqExact(id) FROM shop.t") == [["300", "300"]]


def test_a_plan_names_each_right_that_is_taken_away(cluster):
    """And changes nothing. A server before 24.11 tells of none but those that ATTACH TABLE needs."""
    rights = {}
    for statement in documented():
        if granted := re.search(r"GRANT (.*) ON (shop\.\*|Replicated\w+)", statement):
            rights |= dict.fromkeys(granted[1].split(", "), granted[2])
    assert len(rights) > 9
    if cluster.hosts[0].value("SELECT version()").startswith("24.8"):
        rights = {right: on for right, on in rights.items() if right in ("CREATE TABLE", "TABLE ENGINE")}
    for right, on in rights.items():
        cluster.query_all(f"REVOKE {right} ON {on} FROM rekeeper")
        try:
            refused = cluster.rekeeper("plan", "less", "--table", "shop.t", "-o", "json").expect(BLOCKED).json
            told = [finding["message"] for finding in refused["blockers"] if finding["code"] == "USER_REFUSED"]
            assert len(told) == 2 and all(f"GRANT {right} ON" in message for message in told), (right, refused["blockers"])
        finally:
            cluster.query_all(f"GRANT {right} ON {on} TO rekeeper")
    cluster.rekeeper("plan", "as_before", "--table", "shop.t").expect(DONE)
    assert cluster.hosts[0].query("SELECT name FROM system.tables WHERE database = 'shop'") == [["t"]]
