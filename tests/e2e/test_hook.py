"""A hook moves the whole server: what a plan warns of, and how what was left behind comes along."""

import pytest
import runbook
import tables
from processes import wait_for
from programs import DONE
from rig import Cluster
from tables import Table

MOVED, LEFT, ELSEWHERE = Table("shop", "moved", rows=60), Table("shop", "left", rows=60), Table("shop", "elsewhere")
BEHIND = "Tables that a hook has left behind"


@pytest.fixture(scope="module")
def two():
    """Two replicas of one shard with Rekeeper, whose agents have a hook."""
    with Cluster(shards=1, replicas=2, root="/before") as cluster:
        tables.create(cluster.shards(), [MOVED, LEFT])
        cluster.start_rekeeper()
        yield cluster


def hooks(cluster: Cluster, name: str, *options: str) -> dict[str, dict[str, str]]:
    """What the plan warns of on each host because of its hook: code and message."""
    found: dict[str, dict[str, str]] = {}
    for warning in cluster.rekeeper("plan", name, *options, "-o", "json").expect(DONE).json["warnings"]:
        if warning["code"].startswith("HOOK_"):
            assert warning["table"] is None and warning["fix"]
            found.setdefault(warning["code"], {})[warning["host"]] = warning["message"]
    return found


def test_what_else_stays_behind(two):
    """KeeperMap tables and what the configuration keeps in ZooKeeper, as the server and its configuration tell."""
    first, second = two.hosts
    more = "<keeper_map_path_prefix>/maps</keeper_map_path_prefix><user_defined_zookeeper_path>/udf</user_defined_zookeeper_path>"
    text = first.config.read_text()
    first.config.write_text(text.replace("</clickhouse>", f"{more}</clickhouse>"))
    first.restart()
    first.query("CREATE TABLE shop.map (k UInt64, v UInt64) ENGINE = KeeperMap('/map') PRIMARY KEY k")
    first.query("CREATE DATABASE kept ENGINE = Replicated('/kept/db', 's1', 'r1')")
    try:
        found = hooks(two, "kept")
        assert found.keys() == {"HOOK_LEAVES_BEHIND"} and found["HOOK_LEAVES_BEHIND"].keys() == {first.name}
        message = found["HOOK_LEAVES_BEHIND"][first.name]
        assert "KeeperMap tables shop.map: copy their rows" in message and "functions below /udf: " in message
        assert "Replicated databases kept: " in message
        assert hooks(two, "kept-never", "--restart", "never").keys() == {"HOOK_NOT_RUN"}
    finally:
        first.query("DROP TABLE shop.map SYNC")
        first.query("DROP DATABASE kept SYNC")
        first.config.write_text(text)
        first.restart()


def test_what_a_plan_warns_of(two):
    hosts = {"ch-01-1", "ch-01-2"}
    assert hooks(two, "all") == {}
    assert hooks(two, "never", "--restart", "never").keys() == {"HOOK_NOT_RUN"}
    # That nothing is left behind then makes no difference: what is planned does not move either.
    never = hooks(two, "never-one", "--restart", "never", "--table", "shop.moved")
    assert never.keys() == {"HOOK_NOT_RUN"} and never["HOOK_NOT_RUN"].keys() == hosts
    one = hooks(two, "one", "--table", "shop.moved")
    assert one.keys() == {"HOOK_LEAVES_TABLES"} and one["HOOK_LEAVES_TABLES"].keys() == hosts
    for message in one["HOOK_LEAVES_TABLES"].values():
        assert message.endswith("1 of its replicated tables are not planned: shop.left")
    for code in "HOOK_NOT_RUN", "HOOK_LEAVES_TABLES":
        assert "hook" in two.rekeeper("explain", code).expect(DONE).stdout
    # Without a hook nothing is left behind, on that host.
    agent = two.agents["ch-01-1"]
    before = agent.configuration
    agent.configure({key: value for key, value in before.items() if key != "hooks"})
    agent.restart()
    two.rekeeper.wait_for_agents(*two.agents)
    assert hooks(two, "none", "--table", "shop.moved")["HOOK_LEAVES_TABLES"].keys() == {"ch-01-2"}
    agent.configure(before)
    agent.restart()
    two.rekeeper.wait_for_agents(*two.agents)


def test_what_a_hook_has_left_behind_comes_along_by_hand(two):
    """As the runbook says, whether it was not planned or skipped."""
    rekeeper, skipped = two.rekeeper, Table("shop", "skipped", rows=60)
    tables.create(two.shards(), [skipped])
    two.order_root_switch("/after")
    rekeeper("plan", "move", "--exclude", "shop.left").expect(DONE)
    rekeeper("start", "move", "--until", "detached", "--yes").expect(DONE)
    told = rekeeper("skip", "move", "--table", "shop.skipped").expect(DONE).stderr
    assert "the hook of ch-01-1, ch-01-2" in told and BEHIND in told
    rekeeper.wait_for_state("move", "PAUSED")
    rekeeper("start", "move", "--yes").expect(DONE)
    two.rekeeper.wait_for_agents(*two.agents)
    state = "SELECT is_readonly, zookeeper_exception FROM system.replicas WHERE table = '{}'"
    for host in two.hosts:
        assert host.value(f"SELECT is_readonly FROM system.replicas WHERE table = 'moved'") == "0"
    compare, restore, delete = runbook.steps(BEHIND)
    for table in skipped, LEFT:
        for host in two.hosts:
            wait_for(lambda: host.query(state.format(table.name))[0][0] == "1", f"{table.name} to be left behind")
            assert "No node" in host.query(state.format(table.name))[0][1]
        asked = [runbook.of(sql, table.database, table.name) for sql in runbook.spans(compare, "SELECT")]
        assert len(asked) == 2
        answers = [[sorted(host.query(sql)) for sql in asked] for host in two.hosts]
        assert answers[0] == answers[1] and answers[0][0] == [["60"]]
        for host in two.hosts:
            for sql in runbook.spans(restore, "SYSTEM"):
                host.query(runbook.of(sql, table.database, table.name))
        for host in two.hosts:
            host.query(f"SYSTEM SYNC REPLICA {table.quoted}")
            assert host.value(f"SELECT count() FROM {table.quoted}") == "60"
    with two.zookeeper.client() as client:
        assert "Delete them" in delete
        for table in skipped, LEFT:
            client.delete(f"/before/tables/01/shop/{table.name}", recursive=True)
    # All of it can be planned again, at the new place.
    two.query_all(f"INSERT INTO {LEFT.quoted} (id) VALUES (777)")
    rekeeper("plan", "again", "--restart", "never").expect(DONE)
    rekeeper("start", "again", "--yes").expect(DONE)
    assert {two.host(h).value(f"SELECT count() FROM {LEFT.quoted}") for h in two.agents} == {"61"}
