"""One agent's key in the wrong hands: what is told in its name is that host's trouble, and costs no other host a row."""

import pytest
import tables
from one_table import FIRST, SECOND, OneTable
from programs import DONE, PROBLEMS
from relay import Relay
from rig import Cluster
from tables import Table

ROWS, PARTS = 5000, 5
TABLES = [
    Table("shop", name, settings=tables.NEVER_MERGES, rows=ROWS, inserts=PARTS) for name in ("record", "manifest")
]


@pytest.fixture(scope="module")
def cluster():
    """Two replicas; what the first agent says goes through a relay."""
    with Cluster(shards=1, replicas=2) as made:
        tables.create(made.shards(), TABLES)
        made.start_rekeeper()
        yield made


@pytest.fixture
def forged(cluster, request):
    """The relay forges what the test is called after; in the end the agent speaks for itself again."""
    agent = cluster.agents[FIRST]
    honest, relay = agent.configuration, Relay(cluster.directory, cluster.coordinator)

    def speaks_by(configuration: dict) -> None:
        agent.terminate()
        agent.configure(configuration)
        agent.start()
        cluster.rekeeper.wait_for_agents(*cluster.agents)

    relay.start(request.param)
    speaks_by(honest | {"coordinator": relay.url})
    yield relay
    relay.stop()
    speaks_by(honest)


def disputed(cluster, name: str) -> dict:
    """The problem that says so, of the one table that has it."""
    status = cluster.rekeeper.status(name)
    problems = {table["host"]: table["problem"] for table in status["tables"] if table["problem"]}
    print(problems)
    assert {problem["code"] for problem in problems.values()} == {"RECORD_DISPUTED"}
    return problems


@pytest.mark.parametrize("forged", ["record"], indirect=True)
def test_a_record_that_lacks_parts_deletes_nothing(cluster, forged):
    case = OneTable(cluster, "record", ROWS)
    case.plan().expect(DONE)
    answer = cluster.rekeeper("start", "record", "--yes")
    assert "forged a part set of record" in forged.said()
    assert case.counts() == {ROWS}
    answer.expect(PROBLEMS)
    # Both of them have found out by themselves, and the set is in service as before.
    problems = disputed(cluster, "record")
    assert set(problems) == {host.name for host in cluster.hosts}
    assert all("lacks 2 parts" in problem["message"] for problem in problems.values())
    with cluster.zookeeper.client() as client:
        assert len(client.get_children("/tables/01/shop/record/replicas/r2/parts")) == PARTS
    for host in cluster.hosts:
        assert host.value("SELECT is_readonly FROM system.replicas WHERE table = 'record'") == "0"
    # Who has the host again can go on.
    forged.start("nothing")
    cluster.rekeeper.wait_for_agents(*cluster.agents)
    case.retry_finishes()


@pytest.mark.parametrize("forged", ["manifest"], indirect=True)
def test_a_manifest_that_lacks_a_part_is_followed_by_nobody(cluster, forged):
    case, ignored = OneTable(cluster, "manifest", ROWS), cluster.directory.glob("ch-01-2/**/detached/ignored_*")
    case.plan().expect(DONE)
    cluster.rekeeper("start", "manifest", "--yes").expect(PROBLEMS)
    assert "forged a manifest" in forged.said()
    assert case.count(SECOND) == ROWS
    problems = disputed(cluster, "manifest")
    assert set(problems) == {SECOND} and "1 parts differ (all_0_0_0)" in problems[SECOND]["message"]
    assert not list(ignored)
