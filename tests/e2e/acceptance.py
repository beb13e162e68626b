"""Gives the statements of histories.py to tables on all replicas and to their controls, and compares what is in them."""

import concurrent.futures
import re
import time
from string import Template

from clickhouse import ClickHouse, StatementFailed
from histories import HISTORIES, PARTITIONED, SETTINGS, Action, History, Step
from processes import wait_for
from rig import Cluster

DATABASE, CONTROL = "acceptance", "control"
AT_THE_SAME_TIME = 12
# Until the replicas have what one of them was given.
AGREE_SECONDS = 20
STATEMENT_SECONDS = 90
# Statements come back when every replica has executed them.
_WAITS = {
    "ALTER": "alter_sync = 2, mutations_sync = 2",
    "OPTIMIZE": "alter_sync = 2",
    "TRUNCATE": "alter_sync = 2",
    "DELETE": "lightweight_deletes_sync = 2",
    "UPDATE": "enable_lightweight_update = 1",
}


def grid(names: list[str], cell) -> str:
    """What is demanded, one a line, by the numbers of the histories; `cell(history, name)` is one character."""
    width = max(map(len, names))
    numbers = "".join(f"{number:3}" for number in range(1, len(HISTORIES) + 1))
    lines = [" " * width + numbers]
    for name in names:
        lines.append(name.ljust(width) + "".join(f"  {cell(history, name)}" for history in HISTORIES))
    return "\n".join(line.rstrip() for line in lines)


class Table:
    """One history on the replicas, and beside it the control."""

    def __init__(self, history: History, hosts: list[ClickHouse], control: ClickHouse, known: set[str]):
        self.history, self.hosts, self.control = history, hosts, control
        # Settings of a table, by name.
        self.known = known
        self.name = re.sub(r"\W+", "_", history.name).strip("_")
        self.path = f"/tables/01/{DATABASE}/{self.name}"

    def sql(self, sql: str, number: int, database: str, part: str = "") -> str:
        """The statement as it is for this table, in that database, with settings that let it wait for all replicas."""
        name = f"{database}.{self.name}"
        engine = self.engine(database, self.name + "_other")
        sql = Template(sql).substitute(t=name, o=f"{name}_other", n=number, path=self.path, part=part, engine=engine)
        waits = _WAITS.get(sql.split()[0])
        return f"{sql} SETTINGS {waits}" if waits else sql

    def engine(self, database: str, name: str) -> str:
        """With its clauses; replicated, or that of the control."""
        history, arguments, kind = self.history, [], ""
        if database == DATABASE:
            arguments, kind = [f"'/tables/01/{DATABASE}/{name}'", "'{replica}'"], "Replicated"
        arguments += filter(None, [history.arguments])
        settings = f"{SETTINGS}, {history.settings}".split(", ")
        settings = ", ".join(setting for setting in settings if setting.partition(" ")[0] in self.known)
        return f"{kind}{history.engine}({', '.join(arguments)}) {PARTITIONED} SETTINGS {settings}"

    def create(self) -> None:
        """On the replicas and the control."""
        for host, database in [*((host, DATABASE) for host in self.hosts), (self.control, CONTROL)]:
            engine = self.engine(database, self.name)
            host.query(f"CREATE TABLE {database}.{self.name} ({self.history.columns}) ENGINE = {engine}")

    def do(self, steps: tuple) -> None:
        """By the first replica, then by the second."""
        for number, host in enumerate(self.hosts, 1):
            part = self.part(host, number) if any("$part" in str(step) for step in steps) else ""
            for step in steps:
                step = step if isinstance(step, Step) else Step(step)
                for who in [host] if step.by == "acting" else self.hosts:
                    who.query(self.sql(step.sql, number, DATABASE, part), timeout=STATEMENT_SECONDS)
                if step.control:
                    self.control.query(self.sql(step.sql, number, CONTROL), timeout=STATEMENT_SECONDS)

    def drop_other(self) -> None:
        """What MOVE and EXCHANGE needed."""
        for host in self.hosts:
            host.query(f"DROP TABLE {DATABASE}.{self.name}_other SYNC")

    def part(self, host: ClickHouse, partition: int) -> str:
        """One that is active in that partition."""
        where = f"database = '{DATABASE}' AND table = '{self.name}' AND partition = '{partition}' AND active"
        parts = host.query(f"SELECT name FROM system.parts WHERE {where} ORDER BY name LIMIT 1")
        if not parts:
            raise StatementFailed(f"partition {partition} has no part")
        return parts[0][0]

    def content(self, database: str) -> str:
        """The statement that tells number and hash of its rows."""
        # Others drop or fold rows when they merge, at any time.
        final = "" if self.history.engine == "MergeTree" else "FINAL"
        rows = "toString(count()), toString(sum(cityHash64(formatRow('TSV', *))))"
        return f"SELECT '{self.name}', {rows} FROM {database}.{self.name} {final}"

    def clone(self, host: ClickHouse) -> None:
        """Another replica, on a host that has had none; with everything when it returns."""
        definition = f"SELECT create_table_query FROM system.tables WHERE database = '{DATABASE}' AND name = '{self.name}'"
        host.query(self.hosts[0].value(definition))
        host.query(f"SYSTEM SYNC REPLICA {DATABASE}.{self.name}", timeout=STATEMENT_SECONDS)

    def drop(self, host: ClickHouse) -> None:
        """That replica; of every second table as one whose host is gone, and only then on its host."""
        name = f"{DATABASE}.{self.name}"
        if HISTORIES.index(self.history) % 2:
            host.query(f"DETACH TABLE {name} PERMANENTLY SYNC")
            self.hosts[0].query(f"SYSTEM DROP REPLICA '{host.replica}' FROM TABLE {name}")
            host.query(f"ATTACH TABLE {name}")
        host.query(f"DROP TABLE {name} SYNC")
        total = f"SELECT total_replicas FROM system.replicas WHERE database = '{DATABASE}' AND table = '{self.name}'"
        if (found := {other.value(total) for other in self.hosts}) != {"2"}:
            raise StatementFailed(f"replicas: {found}")


class Field:
    """All tables, and what came of everything that was demanded of them."""

    def __init__(self, cluster: Cluster):
        self.cluster, (*self.replicas, self.third) = cluster, cluster.hosts
        # The third host has the controls, and later a third replica.
        self.places = [*((host, DATABASE) for host in self.replicas), (self.third, CONTROL)]
        known = {name for (name,) in self.third.query("SELECT name FROM system.merge_tree_settings")}
        histories = [history for history in HISTORIES if self.has(history.needs)]
        self.tables = [Table(history, self.replicas, self.third, known) for history in histories]
        self.results: dict[str, dict[str, str]] = {}

    def has(self, setting: str) -> bool:
        """Whether the engine has that setting, or none is asked for."""
        return not setting or bool(self.third.query(f"SELECT 1 FROM system.settings WHERE name = '{setting}'"))

    def demand(self, name: str, what) -> None:
        """`what(table)` for every table that can do it, at the same time; afterwards all have what the control has."""
        able = [table for table in self.tables if name not in table.history.lacks]
        failed = self.at_once(what, able)
        failed |= self.agree([table for table in able if table.history.name not in failed])
        self.results[name] = {table.history.name: failed.get(table.history.name, "") for table in able}
        assert not failed, f"{self.report()}\n\n" + "\n".join(f"{name}: {table}: {text}" for table, text in failed.items())

    def act(self, action: Action) -> None:
        """Demand one of histories.py."""
        self.demand(action.name, lambda table: table.do(action.steps))

    def report(self) -> str:
        """Everything so far: `F` failed, `-` not of that table."""

        def cell(history: History, name: str) -> str:
            found = self.results[name].get(history.name)
            return "-" if found is None else "F" if found else "."

        legend = ", ".join(f"{number} {history.name}" for number, history in enumerate(HISTORIES, 1))
        return f"{grid(list(self.results), cell)}\n{legend}"

    def at_once(self, what, tables: list[Table]) -> dict[str, str]:
        """Call it for all tables; what failed, by the names of their histories."""

        def call(table: Table) -> str:
            try:
                what(table)
            except (StatementFailed, OSError) as error:
                return str(error)
            return ""

        with concurrent.futures.ThreadPoolExecutor(AT_THE_SAME_TIME) as pool:
            found = list(pool.map(call, tables))
        return {table.history.name: text for table, text in zip(tables, found, strict=True) if text}

    def agree(self, tables: list[Table]) -> dict[str, str]:
        """Wait until all places have the same; where they have not."""
        deadline = time.monotonic() + AGREE_SECONDS
        left = self.differing(tables)
        while left and time.monotonic() < deadline:
            time.sleep(0.2)
            left = self.differing([table for table in tables if table.history.name in left])
        return left

    def differing(self, tables: list[Table]) -> dict[str, str]:
        """Those of which the replicas and the control have not the same rows and columns."""
        if not tables:
            return {}
        with concurrent.futures.ThreadPoolExecutor(len(self.places)) as pool:
            answers = list(pool.map(lambda place: _contents(*place, tables), self.places))
        names = [f"{host.name} {database}" for host, database in self.places]
        found = {}
        for table in tables:
            for kind, said in enumerate(zip(*(answer[table.name] for answer in answers), strict=True)):
                if len(set(said)) > 1:
                    told = ", ".join(f"{name} {text}" for name, text in zip(names, said, strict=True))
                    found[table.history.name] = f"{('rows and their hash', 'columns')[kind]}: {told}"
        return found

    def patches_are_gone(self) -> None:
        """Patch parts that are applied go with the next cleanup; a plan is blocked until then."""
        sql = f"SELECT count() FROM system.parts WHERE database = '{DATABASE}' AND active AND startsWith(partition_id, 'patch-')"
        wait_for(lambda: {host.value(sql) for host in self.replicas} == {"0"}, "the patch parts to go", 60)


def _contents(host: ClickHouse, database: str, tables: list[Table]) -> dict[str, tuple[str, str]]:
    """Rows and columns of each table."""
    try:
        rows = host.query(" UNION ALL ".join(table.content(database) for table in tables))
    # One of them fails.
    except (StatementFailed, ValueError):
        rows = []
        for table in tables:
            try:
                rows += host.query(table.content(database))
            except (StatementFailed, ValueError) as error:
                rows.append([table.name, str(error)])
    columns = (
        "SELECT table, toString(groupArray((name, type, default_expression, comment))) FROM (SELECT * FROM system.columns"
        f" WHERE database = '{database}' ORDER BY table, position) GROUP BY table"
    )
    described = dict(host.query(columns))
    return {name: (" ".join(told), described.get(name, "none")) for name, *told in rows}
