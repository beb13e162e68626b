"""Tables of every kind that a migration has to get right, for the demo and the end-to-end tests."""

import concurrent.futures
from dataclasses import dataclass

from clickhouse import ClickHouse, quoted

COLUMNS = "id UInt64, at DateTime DEFAULT '2026-01-01 00:00:00', text String DEFAULT ''"
NEVER_MERGES = "max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"


@dataclass(frozen=True)
class Table:
    """One table as it is made on every host; `rows` are inserted in as many statements as `inserts` says."""

    database: str
    name: str
    engine: str = "ReplicatedMergeTree"
    partition: str = "tuple()"
    settings: str = ""
    rows: int = 1000
    inserts: int = 4
    rows_per_part: int = 0

    @property
    def quoted(self) -> str:
        """Its name as it is written in a statement."""
        return f"{quoted(self.database)}.{quoted(self.name)}"

    def create(self, host: ClickHouse) -> None:
        """Make it on one host, replicated over the host's shard."""
        host.query(f"CREATE DATABASE IF NOT EXISTS {quoted(self.database)}")
        settings = f"SETTINGS {self.settings}" if self.settings else ""
        host.query(
            f"CREATE TABLE {self.quoted} ({COLUMNS})"
            f" ENGINE = {self.engine}('/tables/{{shard}}/{{database}}/{{table}}', '{{replica}}')"
            f" PARTITION BY {self.partition} ORDER BY id {settings}"
        )

    def fill(self, hosts: list[ClickHouse]) -> None:
        """Insert its rows, by turns on the replicas of one shard."""
        settings = "SETTINGS max_insert_threads = 1"
        if self.rows_per_part:
            limits = ["max_block_size", "max_insert_block_size", "min_insert_block_size_rows"]
            settings += "".join(f", {limit} = {self.rows_per_part}" for limit in limits)
            settings += ", min_insert_block_size_bytes = 0"
        each = self.rows // self.inserts if self.inserts else 0
        for number in range(self.inserts):
            hosts[number % len(hosts)].query(
                f"INSERT INTO {self.quoted} (id, text) SELECT number, 'row ' || toString(number)"
                f" FROM numbers({number * each}, {each}) {settings}"
            )


KINDS = [
    Table("shop", "plain"),
    Table("shop", "on object storage", settings="storage_policy = 'object_storage'"),
    Table("shop", "wide", settings="min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0"),
    Table("shop", "it's `quoted`"),
    Table("archive", "plain", rows=500),
    Table("shop", "empty", rows=0, inserts=0),
    Table("shop", "many parts", settings=NEVER_MERGES, rows=30_000, inserts=2, rows_per_part=100),
    Table("shop", "latest", engine="ReplicatedReplacingMergeTree"),
    # The ids of these partitions are -1, 0 and 1.
    Table("shop", "partitioned", partition="toInt8(id % 3) - 1"),
    Table("shop", "one by one", settings=NEVER_MERGES, rows=20, inserts=20),
]
# Those that a writer goes on writing into.
WRITTEN = [KINDS[0], KINDS[1], KINDS[3], KINDS[4], KINDS[8]]


def some(count: int) -> list[Table]:
    """`count` tables: one of each kind, then plain ones."""
    more = [Table("shop", f"more {number}", rows=100, inserts=2) for number in range(count - len(KINDS))]
    return KINDS[:count] + more


def create(shards: list[list[ClickHouse]], tables: list[Table]) -> None:
    """Make and fill the tables on all shards, several hosts at a time."""
    hosts = [host for shard in shards for host in shard]

    def create_all(host: ClickHouse) -> None:
        for table in tables:
            table.create(host)

    def fill_all(shard: list[ClickHouse]) -> None:
        for table in tables:
            table.fill(shard)

    with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(create_all, hosts))
        list(pool.map(fill_all, shards))
