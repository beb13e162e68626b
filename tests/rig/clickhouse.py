"""A small client for ClickHouse's HTTP interface, and ClickHouse's words: errors and quoted identifiers."""

import http.client
import json
import re
import urllib.parse

_UNKNOWN_ERROR = 1000


class StatementFailed(Exception):
    """ClickHouse's own text of the error, `Code: 60. DB::Exception: ...`."""

    @property
    def code(self) -> int:
        """The number of the error."""
        found = re.search(r"Code: (\d+)", str(self))
        return int(found[1]) if found else _UNKNOWN_ERROR


class ClickHouse:
    """One host as a client sees it."""

    def __init__(self, name: str, shard: str, port: int, password: str = ""):
        self.name, self.shard, self.port, self.password = name, shard, port, password
        self.url = f"http://127.0.0.1:{port}"

    def query(self, sql: str, *, query_id: str = "", timeout: float = 120, **parameters) -> list[list[str]]:
        """The rows of a statement, each value as text. `parameters` fill `{name:Type}` of the statement."""
        url = {"default_format": "JSONCompactStringsEachRow"}
        url |= {f"param_{name}": _escaped(str(value)) for name, value in parameters.items()}
        if query_id:
            url["query_id"] = query_id
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            headers = {"X-ClickHouse-User": "default", "X-ClickHouse-Key": self.password}
            connection.request("POST", "/?" + urllib.parse.urlencode(url), sql.encode(), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise StatementFailed(text.strip())
        return [json.loads(line) for line in text.split("\n") if line]

    def value(self, sql: str, **parameters) -> str:
        """The only value of a statement."""
        ((value,),) = self.query(sql, **parameters)
        return value


def quoted(identifier: str) -> str:
    """An identifier as it is written in a statement."""
    return "`" + identifier.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _escaped(value: str) -> str:
    """A parameter's value, which the server reads as one field of TabSeparated."""
    for character, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t")):
        value = value.replace(character, escape)
    return value
