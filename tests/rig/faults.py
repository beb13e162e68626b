"""The fault switch of a test host: statements that match a rule fail, wait, or lose their answer.

The rules are a JSON list in a file that tests replace while the host runs; it is read again at each statement. A rule:

    {"pattern": "RESTORE REPLICA", "code": 999, "message": "Session expired", "times": 2}
                                     the first 2 matching statements fail with code 999 and never reach the engine
    {"pattern": ..., "wait": true}   is held until the rule is taken out of the file, then executed
    {"pattern": ..., "drop": true}   the connection is closed without an answer
    {"pattern": ..., "instead": SQL} SQL is executed in its place: what a system table says that the engine does not have
    "after": true                    with any of these: the statement is executed first

Without "times" a rule holds as long as it is in the file. Patterns are regular expressions, searched without regard to
case in the statement as the client sent it. "id" tells two equal rules apart whose "times" are to be counted anew.
"""

import json
import re
import threading
import time
from pathlib import Path

_POLL_SECONDS = 0.02


class Injected(Exception):
    """The ClickHouse error that a rule asks for."""


class Dropped(Exception):
    """The connection has to be closed without an answer."""


class Faults:
    """The rules of one host."""

    def __init__(self, file: str | None):
        self._file = Path(file) if file else None
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}

    def replaced(self, sql: str) -> str:
        """The statement that is to be executed in the place of `sql`."""
        for rule in self._rules():
            if "instead" in rule and re.search(rule["pattern"], sql, re.IGNORECASE | re.DOTALL) and self._use(rule):
                return rule["instead"]
        return sql

    def apply(self, sql: str, *, executed: bool, on_held) -> None:
        """Do what the rules say of `sql` before it is executed, or after; `on_held` is called before waiting."""
        for rule in self._rules():
            matches = re.search(rule["pattern"], sql, re.IGNORECASE | re.DOTALL)
            if matches and "instead" not in rule and bool(rule.get("after")) == executed and self._use(rule):
                self._act(rule, on_held)

    def _act(self, rule: dict, on_held) -> None:
        if rule.get("wait"):
            on_held()
            while rule in self._rules():
                time.sleep(_POLL_SECONDS)
        if rule.get("drop"):
            raise Dropped
        if "code" in rule:
            raise Injected(f"Code: {rule['code']}. DB::Exception: {rule.get('message', 'injected fault')}. (INJECTED)")

    def _use(self, rule: dict) -> bool:
        """Whether the rule still holds, counting this use of it."""
        if rule.get("times") is None:
            return True
        key = json.dumps(rule, sort_keys=True)
        with self._lock:
            self._used[key] = self._used.get(key, 0) + 1
            return self._used[key] <= rule["times"]

    def _rules(self) -> list[dict]:
        if self._file is None:
            return []
        try:
            return json.loads(self._file.read_text())
        except FileNotFoundError:
            return []
