"""Fixtures of the end-to-end tests: clusters of real programs, and what they said when a test failed."""

import pytest
from rig import Cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the ends of Rekeeper's logs to the report of a test that failed."""
    report = yield
    if call.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster):
                programs = [*value.agents.values(), *([value.coordinator] if value.coordinator else [])]
                for program in programs:
                    report.sections.append((str(program.log), program.log_tail()))
    return report


@pytest.fixture(autouse=True)
def without_faults(request):
    """A case that failed leaves nothing held on the cluster that it shares with others of its module."""
    cluster = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    for host in cluster.hosts if cluster else []:
        host.clear_faults()


@pytest.fixture(scope="session")
def shared_cluster():
    """Two replicas of one shard for tests that keep to a database of their own and leave all hosts running."""
    with Cluster(shards=1, replicas=2) as cluster:
        yield cluster


@pytest.fixture
def database(shared_cluster, request):
    """A database of the test's own on every host of the shared cluster."""
    name = request.node.name
    shared_cluster.query_all(f"CREATE DATABASE {name}")
    yield name
    for host in shared_cluster.hosts:
        host.clear_faults()
    shared_cluster.query_all(f"DROP DATABASE {name} SYNC")


@pytest.fixture
def one_host():
    """One host with Rekeeper."""
    with Cluster(shards=1, replicas=1) as cluster:
        cluster.start_rekeeper()
        yield cluster


@pytest.fixture
def two_by_two():
    """Two shards of two replicas with Rekeeper, under a root of their own."""
    with Cluster(shards=2, replicas=2, root="/before") as cluster:
        cluster.start_rekeeper()
        yield cluster
