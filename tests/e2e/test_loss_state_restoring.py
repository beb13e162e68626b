"""An agent loses its state folder while a restore is mended that was cut, by the death of the server: what was noted is
found out again, every row is there once, and the table's settings are what they were.
"""

import shutil
from dataclasses import replace

import pytest
from cut_restore import ATTACH_PART, BEHIND, PARTS, REFERENCE, RESTORE, ROWS, Migration, Place, created, killed, part
from rig import Cluster

WINDOW, MERGES = "replicated_deduplication_window", "max_replicated_merges_in_queue"
FOLLOWER = {
    "cloning": Place(f"detached/{part(2)}"),
    "not-registered": Place(f"detached/attaching_{part(2)}/", done=True),
}


@pytest.fixture(scope="module")
def cluster():
    """Two replicas of one shard, Rekeeper, and a database for all cases."""
    with Cluster(shards=1, replicas=2) as cluster:
        cluster.query_all("CREATE DATABASE d")
        cluster.start_rekeeper()
        yield cluster


def settings(host, table: str) -> str:
    """Of its definition."""
    definition = host.value(f"SELECT engine_full FROM system.tables WHERE concat(database, '.', name) = '{table}'")
    return definition.partition(" SETTINGS ")[2]


def fates(cluster: Cluster, migration: Migration, host) -> dict:
    """Of the parts on a host."""
    tables = cluster.rekeeper("report", migration.name, "-o", "json").json["tables"]
    (found,) = [table["fates"] for table in tables if table["host"] == host.name]
    return found


def loses(cluster: Cluster, host, migration: Migration, what: str = "*"):
    """What is in the folder of the migration is lost, or in all of the state folder."""
    agent = cluster.agents[host.name]

    def lose() -> None:
        if what == "*":
            shutil.rmtree(agent.state)
            return
        (file,) = agent.folder(migration.name).glob(what)
        file.unlink()

    return lose


@pytest.mark.parametrize("name", REFERENCE)
def test_reference(cluster, name):
    """Of the reference, wherever its server was killed. No part is called one that RESTORE attached, but where it had
    not made the nodes and was begun anew."""
    host, table = cluster.hosts[0], created(cluster.hosts, f"reference_{name.replace('-', '_')}")
    place = replace(REFERENCE[name], others=("agent",), mending="")
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, place, loses(cluster, host, migration)):
            host.clear_faults()
    migration.completed()
    attached = place.short // ROWS
    expected = {"active": PARTS}
    if name not in ("before", "moving"):
        # What is attached after the loss is known as such.
        expected = {fate: n for fate, n in (("unclear", attached), ("attached_again", PARTS - attached)) if n}
    assert fates(cluster, migration, host) == expected


@pytest.mark.parametrize("name", FOLLOWER)
def test_follower(cluster, name):
    """Of a follower."""
    host, table = cluster.hosts[1], created(cluster.hosts, f"follower_{name.replace('-', '_')}")
    with Migration(cluster, table, host, RESTORE) as migration:
        place = replace(FOLLOWER[name], others=("agent",))
        with killed(cluster, host, table, place, loses(cluster, host, migration)):
            host.clear_faults()
    migration.completed()


def test_order(cluster):
    """Of an engine that takes the later part for the newer one: moved parts go back, and none is attached later."""
    host, engine = cluster.hosts[0], "ReplicatedReplacingMergeTree"
    table = created(cluster.hosts, "in_order", engine=engine)
    place = Place("all_2_2_1/", ("all_0_0_1", "all_1_1_1"), others=("agent",))
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, place, loses(cluster, host, migration)):
            host.clear_faults()
    migration.completed()


@pytest.mark.parametrize("what", ["*", "*.restore"], ids=["all", "note"])
def test_settings(cluster, what):
    """While parts are attached again, for which settings of the table were changed: they are given back."""
    host, agent = cluster.hosts[0], cluster.agents[cluster.hosts[0].name]
    table = created(cluster.hosts, f"settings_{'all' if what == '*' else 'note'}")
    for each in cluster.hosts:
        each.query(f"ALTER TABLE {table} MODIFY SETTING {WINDOW} = 7")
    before = settings(host, table)
    with Migration(cluster, table, host, RESTORE) as migration:
        with killed(cluster, host, table, Place(f"detached/{part(2)}", BEHIND[2:])):
            migration.hold(ATTACH_PART, after=True)
        assert migration.until_held()
        assert f"{WINDOW} = 0" in settings(host, table) and f"{MERGES} = 0" in settings(host, table)
        agent.kill()
        loses(cluster, host, migration, what)()
        host.clear_faults()
        agent.start()
    found = settings(host, table)
    migration.completed()
    assert found == before
    # Two parts by RESTORE, and one that was attached again and noted.
    assert fates(cluster, migration, host) == {"unclear": 3, "attached_again": 2}
    said = cluster.rekeeper("events", migration.name).stdout
    assert "0 parts active, 2 attached again, 3 parts active or attached again (the agent has lost its note)" in said
