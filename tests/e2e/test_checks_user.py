"""The profile, the quota and the rights of the agents' ClickHouse user: none of them loses a row, or blocks half-way."""

import pytest
from processes import wait_for
from programs import BLOCKED, DONE
from rig import Cluster

# Values that would change answers or refuse statements. Those about the text of a statement are not here
# (max_query_size, max_parser_depth), nor use_query_cache, implicit_transaction and max_execution_speed: the rig gives settings by a statement, where a server takes them from the URL.
HARMFUL = {
    "limit": 7,
    "offset": 3,
    "extremes": 1,
    "max_result_rows": 5,
    "result_overflow_mode": "break",
    "max_result_bytes": 10,
    "max_rows_to_read": 3,
    "read_overflow_mode": "break",
    "max_rows_to_sort": 2,
    "sort_overflow_mode": "break",
    "max_rows_to_group_by": 2,
    "group_by_overflow_mode": "any",
    "max_rows_in_set": 1,
    "set_overflow_mode": "break",
    "max_rows_in_join": 1,
    "join_overflow_mode": "break",
    "max_rows_in_distinct": 1,
    "distinct_overflow_mode": "break",
    "max_columns_to_read": 2,
    "max_temporary_columns": 3,
    "max_execution_time": 0.001,
    "timeout_overflow_mode": "break",
    "max_ast_depth": 3,
    "max_ast_elements": 5,
    "max_subquery_depth": 1,
    "join_use_nulls": 1,
    "transform_null_in": 1,
    "prefer_column_name_to_alias": 1,
    "union_default_mode": "DISTINCT",
    "aggregate_functions_null_for_empty": 1,
    "empty_result_for_aggregation_by_empty_set": 1,
    "group_by_use_nulls": 1,
    "data_type_default_nullable": 1,
    "cast_keep_nullable": 1,
    "send_progress_in_http_headers": 1,
    "final": 1,
    "additional_result_filter": "1 = 0",
    "join_default_strictness": "ANY",
    "lock_acquire_timeout": 0,
    "session_timezone": "Asia/Tokyo",
    "bool_true_representation": "ja",
    "output_format_tsv_crlf_end_of_line": 1,
    "output_format_binary_encode_types_in_binary_format": 1,
    "show_table_uuid_in_table_create_query_if_not_nil": 1,
    "max_memory_usage": 1000000,
}
# Of these, what 24.8 does not know yet.
LATER = {
    "show_table_uuid_in_table_create_query_if_not_nil",
    "output_format_binary_encode_types_in_binary_format",
}
ROWS = 40


class Users:
    """Two replicas of one shard, each with one user whose profile, quota and rights a test writes."""

    def __init__(self):
        self.cluster = Cluster(shards=1, replicas=2)
        self.file = self.cluster.directory / "users.xml"
        self.write()
        for host in self.cluster.hosts:
            host.configure(self.cluster.zookeeper, users=self.file)

    def write(self, profile: str = "", quota: str = "", grants: tuple[str, ...] = ()) -> None:
        """What the servers read at their next start. Their own work has another profile."""
        rights = f"<grants>{''.join(f'<query>GRANT {grant}</query>' for grant in grants)}</grants>" if grants else ""
        self.file.write_text(
            "<clickhouse><users><default><password></password><networks><ip>::/0</ip></networks>"
            f"<profile>agent</profile><quota>agent</quota>{rights}</default></users>"
            f"<profiles><default/><agent>{profile}</agent></profiles><quotas><agent>{quota}</agent></quotas></clickhouse>"
        )

    def become(self, **what) -> None:
        """Both servers start anew with this user. A user who may do nothing cannot stop one as it is stopped."""
        for host in self.cluster.hosts:
            host.kill()
        self.write(**what)
        self.cluster.on_all_hosts(lambda host: host.start())

    def is_active(self) -> None:
        """Both replicas are in service again."""
        state = "SELECT countIf(NOT is_readonly AND replica_is_active[replica_name]) FROM system.replicas"
        for host in self.cluster.hosts:
            wait_for(lambda host=host: host.value(state) == "1", "the replicas to be in service", timeout=30)


@pytest.fixture(scope="module")
def users():
    """With a table of as many parts as rows, and a plan of it that was made when the user could do everything."""
    users = Users()
    with users.cluster as cluster:
        cluster.query_all("CREATE DATABASE checks")
        cluster.query_all(
            "CREATE TABLE checks.t (a UInt64) ENGINE = ReplicatedMergeTree('/checks/t', '{replica}') ORDER BY a"
            " PARTITION BY a SETTINGS max_replicated_merges_in_queue = 0"
        )
        cluster.hosts[0].query(f"INSERT INTO checks.t SELECT number FROM numbers({ROWS})")
        cluster.hosts[1].query("SYSTEM SYNC REPLICA checks.t")
        cluster.start_rekeeper()
        cluster.rekeeper("plan", "before", "--table", "checks.t").expect(DONE)
        yield users


def refused(users: Users, name: str) -> list[str]:
    """What the user is refused, as a plan tells of each host; nothing is saved, and an older plan is not started."""
    found = users.cluster.rekeeper("plan", name, "-o", "json").expect(BLOCKED).json["blockers"]
    assert {finding["code"] for finding in found} == {"USER_REFUSED"}, found
    assert all(finding["fix"] for finding in found)
    told = users.cluster.rekeeper("start", "before", "--yes").expect(BLOCKED).stderr
    assert "USER_REFUSED" in told
    assert not any(host.query("SELECT table FROM system.detached_tables") for host in users.cluster.hosts)
    return [finding["message"] for finding in found]


READONLY = {
    "readonly-1": ("<readonly>1</readonly>", "readonly"),
    "readonly-2": ("<readonly>2</readonly>", "readonly"),
    "allow-ddl": ("<allow_ddl>0</allow_ddl>", "allow_ddl"),
    "constraint": (
        "<max_result_rows>50</max_result_rows><constraints><max_result_rows><const/></max_result_rows></constraints>",
        "max_result_rows",
    ),
    # Known to new servers only, so it is sent later than the others.
    "constraint-new": ("<final>1</final><constraints><final><const/></final></constraints>", "final"),
}


@pytest.mark.parametrize("name", READONLY)
def test_what_a_profile_does_not_let_override(users, name):
    profile, setting = READONLY[name]
    users.become(profile=profile)
    messages = refused(users, name)
    print(messages)
    assert len(messages) == 2 and all(setting in message for message in messages)


def test_rights_that_are_lacking(users):
    """DROP TABLE is all that a detach needs, so a user with that alone gets far."""
    grants = ("SHOW, SELECT ON *.*", "DROP TABLE, SYSTEM SYNC REPLICA, SYSTEM MERGES, INSERT ON checks.*")
    users.become(grants=grants)
    messages = refused(users, "grants")
    print(messages)
    caches = "MARK CACHE, SYSTEM DROP PRIMARY INDEX CACHE, SYSTEM DROP UNCOMPRESSED CACHE, SYSTEM DROP QUERY CONDITION CACHE"
    caches += ", SYSTEM FLUSH ASYNC INSERT QUEUE"
    rights = "CREATE TABLE, ALTER SETTINGS, SYSTEM RESTART REPLICA, SYSTEM RESTORE REPLICA, SYSTEM REPLICATION QUEUES"
    on_table, on_all = f"the user lacks GRANT {rights} ON `checks`.`t`", f"the user lacks GRANT SYSTEM DROP {caches} ON *.*"
    assert sorted(messages) == sorted([on_table, on_all] * 2)


def test_what_is_granted_by_name_is_enough(users):
    """What the messages ask for, and what README lists, is all that is needed."""
    rights = "CREATE TABLE, DROP TABLE, INSERT, ALTER SETTINGS, SYSTEM SYNC REPLICA, SYSTEM RESTART REPLICA"
    caches = "SYSTEM DROP MARK CACHE, SYSTEM DROP PRIMARY INDEX CACHE, SYSTEM DROP UNCOMPRESSED CACHE"
    users.become(
        grants=(
            "SHOW ON *.*",
            "SELECT ON system.*",
            f"{rights}, SYSTEM RESTORE REPLICA, SYSTEM MERGES, SYSTEM REPLICATION QUEUES ON checks.*",
            f"{caches}, SYSTEM DROP QUERY CONDITION CACHE, SYSTEM FLUSH ASYNC INSERT QUEUE ON *.*",
        )
    )
    users.is_active()
    users.cluster.rekeeper("plan", "granted", "--restart", "never").expect(DONE)


def test_a_quota(users):
    # Without the right SHOW QUOTAS nobody is told of them.
    limits = "<queries>90000</queries><errors>7</errors>"
    users.become(quota=f"<interval><duration>3600</duration>{limits}</interval>", grants=("ALL ON *.*",))
    users.is_active()
    rekeeper = users.cluster.rekeeper
    found = rekeeper("plan", "quota", "-o", "json").expect(BLOCKED).json["blockers"]
    assert [finding["code"] for finding in found] == ["USER_QUOTA"] * 2, found
    assert found[0]["message"] == "quota agent: max_queries = 90000 in 3600 s; quota agent: max_errors = 7 in 3600 s"
    allowed = rekeeper("plan", "quota", "--allow", "USER_QUOTA", "-o", "json").expect(DONE).json["warnings"]
    assert "USER_QUOTA" in [finding["code"] for finding in allowed]


def test_a_profile_that_would_change_every_answer(users):
    """The last one: it moves the table."""
    users.become()
    users.is_active()
    for host in users.cluster.hosts:
        known = {name for (name,) in host.query("SELECT name FROM system.settings")}
        # A later engine has settings that an earlier one refuses to start with.
        assert HARMFUL.keys() - known <= LATER
    profile = "".join(f"<{name}>{value}</{name}>" for name, value in HARMFUL.items() if name in known)
    users.become(profile=profile)
    rekeeper = users.cluster.rekeeper
    # No question of the test's own has the right answer now.
    wait_for(lambda: rekeeper("plan", "harmful").code == DONE, "a plan", timeout=30)
    rekeeper("start", "harmful", "--yes").expect(DONE)
    tables = rekeeper.status("harmful")["tables"]
    assert [(table["status"], table["parts"], table["rows"]) for table in tables] == [("RESTORED", ROWS, ROWS)] * 2
    users.become()
    users.is_active()
    for host in users.cluster.hosts:
        assert host.query("SELECT count(), sum(a) FROM checks.t") == [[str(ROWS), str(sum(range(ROWS)))]]
