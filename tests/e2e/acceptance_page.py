"""Prints docs/acceptance.md, as histories.py has it."""

from acceptance import grid
from histories import ACTIONS, AFTER_ALL, COLUMNS, DEMANDED, HISTORIES, PARTITIONED, History, Step

HEAD = """# What is demanded of a table that is RESTORED

`tests/e2e/test_acceptance.py` gives tables of many histories on two replicas to a migration and then demands all that a table
does: each action by the first replica and then by the second. A control, a table of the same engine without replication that
is given the same statements, says what the rows and columns have to be; after each action both replicas have to have
them. At the end a third replica is made that clones everything, it is dropped again, and a second migration takes all tables
once more. The engine is ClickHouse 26.9, embedded; the first migration is without a restart, the second one with. It has no
threads for FETCH PARTITION ("MergeTreeFetchPartitionThreadPool is not initialized"), so that FETCH PART is what is demanded;
the rig sends parts without their projections. In the grid `x` is demanded and found, `-` is not demanded.

This page is what the test executes (`python tests/e2e/acceptance_page.py` prints it, and a test compares).
"""


def _statements(steps: tuple) -> str:
    texts = [step.sql if isinstance(step, Step) else step for step in steps]
    return "; ".join(f"`{text}`" for text in texts) or "nothing"


def _history(number: int, history: History) -> str:
    engine = f"{history.engine}({history.arguments})"
    more = history.columns.removeprefix(COLUMNS).removeprefix(", ") if history.columns.startswith(COLUMNS) else ""
    columns = f"columns `{more}`; " if more else ""
    settings = f"`{history.settings}`; " if history.settings else ""
    later = f"; after the migration {_statements(history.later)}" if history.later else ""
    return f"| {number} | {history.name} | {engine} | {columns}{settings}{_statements(history.steps)}{later} |"


def _cell(history: History, name: str) -> str:
    return "-" if name in history.lacks else "x"


def text() -> str:
    """The whole page."""
    histories = [_history(number, history) for number, history in enumerate(HISTORIES, 1)]
    actions = [f"| {action.name} | {_statements(action.steps)} |" for action in [*ACTIONS, *AFTER_ALL]]
    lacking = [
        f"- {number} {history.name}: {name} is not demanded: {why}"
        for number, history in enumerate(HISTORIES, 1)
        for name, why in history.lacks.items()
    ]
    lines = [HEAD, "## Histories x actions", ""]
    lines += ["    " + line for line in grid(DEMANDED, _cell).splitlines()]
    lines += ["", *lacking, "", "## Histories", ""]
    lines += [f"`$t` is the table, `$o` another one like it, `$n` the number of the replica that acts. All have `{PARTITIONED}`.", ""]
    lines += ["| | history | engine | before the migration |", "| --- | --- | --- | --- |", *histories]
    lines += ["", "## Actions", "", "| action | statements |", "| --- | --- |", *actions]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(text(), end="")
