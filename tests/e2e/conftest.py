"""Fixtures of the end-to-end tests: clusters of real programs, and what they said when a test failed; which of them run."""

import re
from collections import Counter

import pytest
from long import LONG
from rig import Cluster


def pytest_collection_modifyitems(items):
    """Mark what runs only when all tests are wanted. A pattern that means no test is a mistake."""
    for module, patterns in LONG.items():
        cases = [item for item in items if item.path.name == module]
        for pattern in patterns:
            found = [item for item in cases if re.search(pattern, item.name)]
            for item in found:
                item.add_marker("long")
            # Of a module of which only some tests were asked for, the others are not here.
            if cases and not found and all("::" not in argument for argument in cases[0].config.args):
                raise pytest.UsageError(f"long.py: no test of {module} is {pattern}")


def pytest_terminal_summary(terminalreporter):
    """Tell how long each module took, of all workers together: what long.py is weighed by."""
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.location[0]] += report.duration
    terminalreporter.section("seconds of modules")
    for module, took in seconds.most_common():
        terminalreporter.line(f"{took:7.0f} {module}")


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
