"""Clients that keep inserting while a cluster is migrated, and the ledger of what ClickHouse acknowledged to them.

Each written row has an id of its own from FIRST_WRITTEN_ID on; what a table is filled with beforehand stays below. A
refused batch is sent again, the same rows, on any replica of the shard, until it is acknowledged.
"""

import http.client
import itertools
import json
import random
import threading
import time
from pathlib import Path

from clickhouse import ClickHouse, StatementFailed, quoted
from processes import wait_for

FIRST_WRITTEN_ID = 10**12
BATCH = 3
# What the partitioned tables of `tables` take ids modulo of.
PARTITIONS = 3
# The statement has certainly done nothing: unknown table or database, table is read-only or not yet initialized.
_REFUSALS = {60, 81, 242, 667}
_RETRY_SECONDS = 0.1
_ids = itertools.count(FIRST_WRITTEN_ID + time.time_ns() // 1000 % 10**15 * 1000)


class Ledger:
    """The acknowledged rows, as JSON lines in a file."""

    def __init__(self, file: Path):
        self._file = file
        self._lock = threading.Lock()
        self._file.touch()

    def acknowledge(self, shard: str, database: str, table: str, ids: list[int], uncertain: bool = False) -> None:
        """Note rows; `uncertain` when one of the attempts had an unknown outcome, so that they may be there twice."""
        record = {"shard": shard, "database": database, "table": table, "ids": ids, "uncertain": uncertain}
        with self._lock, open(self._file, "a") as file:
            file.write(json.dumps(record) + "\n")

    def rows(self, shard: str, database: str, table: str) -> dict[int, bool]:
        """The acknowledged ids of one table of a shard, each with whether it is uncertain."""
        place = (shard, database, table)
        records = map(json.loads, self._file.read_text().splitlines())
        mine = (record for record in records if (record["shard"], record["database"], record["table"]) == place)
        return {row: record["uncertain"] for record in mine for row in record["ids"]}

    def __len__(self) -> int:
        return sum(len(json.loads(line)["ids"]) for line in self._file.read_text().splitlines())


def new_ids(count: int) -> list[int]:
    """Ids that no row has yet, all of one partition where a table is partitioned by id.

    An INSERT into several partitions is several inserts to ClickHouse: refused half-way, some of its parts are there,
    and only the memory of insert deduplication, which new metadata begins anew, keeps a retry from making them twice.
    """
    partition = random.randrange(PARTITIONS)
    return [next(_ids) * PARTITIONS + partition for _ in range(count)]


class Writer:
    """Writes into some tables of every shard, `rate` batches a second in all."""

    def __init__(self, shards: list[list[ClickHouse]], tables: list[tuple[str, str]], ledger: Ledger, rate: float = 15):
        self._ledger = ledger
        self._pause = len(shards) * len(tables) / rate
        self._stopping = threading.Event()
        self.acknowledged = self.refused = 0
        self._counting = threading.Lock()
        self._threads = [
            threading.Thread(target=self._write, args=(hosts, *table), daemon=True)
            for hosts in shards
            for table in tables
        ]

    def __enter__(self) -> "Writer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def wait_for_inserts(self, count: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = self.acknowledged + count
        wait_for(lambda: self.acknowledged >= goal, f"{count} inserts", timeout=60)

    def stop(self) -> None:
        """Finish: a batch under way is either acknowledged and in the ledger, or given up."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _write(self, hosts: list[ClickHouse], database: str, table: str) -> None:
        while not self._stopping.wait(random.uniform(0.5, 1.5) * self._pause):
            self._insert(hosts, database, table, new_ids(BATCH))

    def _insert(self, hosts: list[ClickHouse], database: str, table: str, ids: list[int]) -> None:
        values = ", ".join(f"({row})" for row in ids)
        uncertain = False
        while not self._stopping.is_set():
            try:
                random.choice(hosts).query(f"INSERT INTO {quoted(database)}.{quoted(table)} (id) VALUES {values}")
            except StatementFailed as error:
                uncertain |= error.code not in _REFUSALS
            except ConnectionRefusedError:
                pass
            except (OSError, http.client.HTTPException):
                uncertain = True
            else:
                self._ledger.acknowledge(hosts[0].shard, database, table, ids, uncertain)
                with self._counting:
                    self.acknowledged += 1
                return
            with self._counting:
                self.refused += 1
            self._stopping.wait(_RETRY_SECONDS)
