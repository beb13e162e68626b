"""A real ClickHouse that is too old is refused for that, and not for the questions that it does not understand."""

from types import SimpleNamespace

from old_server import OldServer
from programs import BLOCKED, Agent, Coordinator, Rekeeper


def test_debians_server_is_too_old(tmp_path):
    coordinator = Coordinator(tmp_path / "coordinator")
    with OldServer(tmp_path / "old") as server:
        host = SimpleNamespace(
            name="old", url=server.url, active_config=server.config, directory=server.directory, password=""
        )
        agent = Agent(tmp_path / "agent", host, coordinator)
        try:
            coordinator.start()
            agent.start()
            rekeeper = Rekeeper(coordinator)
            rekeeper.wait_for_agents("old")
            (shown,) = rekeeper("hosts", "-o", "json").json
            assert shown["clickhouse_version"].startswith("18.16.")
            found = rekeeper("plan", "m1", "-o", "json").expect(BLOCKED).json
            assert [blocker["code"] for blocker in found["blockers"]] == ["CLICKHOUSE_TOO_OLD"]
            # Also when a table is asked for that it may well have.
            named = rekeeper("plan", "m1", "--table", "shop.orders", "-o", "json").expect(BLOCKED).json
            assert [blocker["code"] for blocker in named["blockers"]] == ["CLICKHOUSE_TOO_OLD"]
        finally:
            agent.kill()
            coordinator.kill()
