"""RESTORED means that a table does all that it did: many histories, one migration, and then everything, on both replicas.

What the rows have to be is said by a control, a table without replication that was given the same statements. The
statements are in histories.py, docs/acceptance.md has them as a table. The cases build on each other.
"""

from pathlib import Path

import acceptance_page
import pytest
from acceptance import CONTROL, DATABASE, Field
from histories import ACTIONS, AFTER_ALL
from programs import DONE
from rig import Cluster

PAGE = Path(__file__).resolve().parents[2] / "docs" / "acceptance.md"


@pytest.fixture(scope="module")
def field():
    """Tables of all histories after a migration."""
    with Cluster(shards=1, replicas=3) as cluster:
        cluster.query_all(f"CREATE DATABASE {DATABASE}")
        cluster.query_all(f"CREATE DATABASE {CONTROL}")
        cluster.start_rekeeper()
        field = Field(cluster)
        failed = field.at_once(lambda table: table.create(), field.tables)
        failed |= field.at_once(lambda table: table.do(table.history.steps), field.tables)
        assert not failed and not field.agree(field.tables), failed
        migrate(field, "first", "never")
        yield field


def migrate(field: Field, name: str, restart: str) -> None:
    """All tables, to their end."""
    field.patches_are_gone()
    rekeeper = field.cluster.rekeeper
    rekeeper("plan", name, "--database", DATABASE, "--restart", restart).expect(DONE)
    rekeeper("start", name, "--yes").expect(DONE)
    counts = rekeeper.status(name)["counts"]
    assert counts["RESTORED"] == 2 * len(field.tables) and counts["failed"] == 0


def test_the_rows_after_a_migration(field):
    """And what a history has still to do after it."""
    field.demand("RESTORED", lambda table: table.do(table.history.later))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_action(field, action):
    """By each replica, of every table."""
    if not field.has(action.needs):
        pytest.skip(f"the engine has no setting {action.needs}")
    field.act(action)


def test_a_third_replica(field):
    """It clones everything, and goes again."""
    field.places.append((field.third, DATABASE))
    try:
        field.demand("a third replica", lambda table: table.clone(field.third))
    finally:
        field.places.pop()
    field.demand("DROP of a replica", lambda table: table.drop(field.third))


def test_a_second_migration(field):
    """With a restart; and everything is still possible."""
    assert field.at_once(lambda table: table.drop_other(), field.tables) == {}
    migrate(field, "second", "once")
    field.demand("a second migration", lambda table: None)
    for action in AFTER_ALL:
        field.act(action)
    unfinished = "SELECT table, command, latest_fail_reason FROM system.mutations WHERE database = 'acceptance' AND NOT is_done"
    assert [host.query(unfinished) for host in field.replicas] == [[], []]


def test_the_page_has_what_is_demanded():
    """`python tests/e2e/acceptance_page.py` prints it."""
    assert PAGE.read_text() == acceptance_page.text()
