"""The numbered steps of docs/runbook.md, so that tests follow what people are told and not a copy of it."""

import re
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"


def section(title: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^#+ {re.escape(title)}$\n(.*?)(?=^##? |^### |\Z)", FILE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/runbook.md has no section {title}"
    return found[1]


def steps(title: str) -> list[str]:
    """The numbered steps of a section; the first is number 0. Its lines are joined."""
    found = re.split(r"^\d+\. ", section(title), flags=re.MULTILINE)[1:]
    return [re.sub(r"\s*\n\s*", " ", step.split("\n\n")[0]).strip() for step in found]


def spans(text: str, begins: str = "") -> list[str]:
    """What is set as code in a text, in its order, as far as it begins like that."""
    return [span for span in re.findall(r"`([^`]+)`", text) if span.startswith(begins)]


def block(title: str, begins: str) -> str:
    """An indented block of a section that begins like that."""
    found = re.search(rf"^    {re.escape(begins)}.*(?:\n    .*)*", section(title), re.MULTILINE)
    assert found, f"docs/runbook.md, {title}, has no block {begins}"
    return re.sub(r"^    ", "", found[0], flags=re.MULTILINE)


def of(statement: str, database: str, table: str) -> str:
    """A statement about `db.t` for a table of that name."""
    quoted = f"`{database}`.`{table}`"
    return statement.replace("db.t", quoted).replace("'db'", f"'{database}'").replace("'t'", f"'{table}'")
