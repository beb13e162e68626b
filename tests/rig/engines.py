"""What executes the statements of a test host: the engine of chdb-core in this process, or a real server beside it."""

import http.client
import os
import re
import subprocess
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import part_exchange
import real_server
from clickhouse import StatementFailed, quoted
from processes import alive, wait_for

# What of a URL is not a setting for the engine to apply.
_HTTP_ONLY = frozenset(
    "query database default_format query_id user password quota_key role session_id session_timeout session_check"
    " wait_end_of_query buffer_size compress decompress stacktrace replace_running_query"
    " send_progress_in_http_headers http_headers_progress_interval_ms enable_http_compression".split()
)


# Settings of the rig's own statements, whatever the profile of the user says.
_OWN = {"limit": "0", "offset": "0", "final": "0", "max_result_rows": "0", "result_overflow_mode": "throw"}
_OWN |= {"max_ast_depth": "1000", "max_ast_elements": "50000", "additional_result_filter": ""}


class EmbeddedEngine:
    """The whole engine inside this process; statements run at the same time, one in a session."""

    # The id of a statement goes in front of its text, because the engine makes up its own ids.
    _ID = r"extract(query, '^/\\* query_id=(.*?) \\*/')"
    _PROCESSES = (
        f"(SELECT * REPLACE ({_ID} AS query_id,"
        r" replaceRegexpOne(query, '^/\\* query_id=.*? \\*/ ', '') AS query) FROM system.processes)"
    )

    def __init__(self, config: str, data: str, address: str, interserver_port: int, sessions: int):
        import engine_patch

        engine_patch.announce(address, interserver_port)
        from chdb.session import Session

        self._open = lambda: Session(f"{data}?config-file={config}&log-level=information")
        self._turns = threading.BoundedSemaphore(sessions)
        # Those that wait for a statement, by the settings and the database that they have.
        self._sessions: dict[tuple, list] = {(): [self._open() for _ in range(sessions)]}
        self._lock = threading.Lock()
        self._exchange = ThreadingHTTPServer((address, interserver_port), part_exchange.handler(self))
        self._exchange.daemon_threads = True
        threading.Thread(target=self._exchange.serve_forever, daemon=True).start()

    def execute(self, sql: str, options: dict[str, str], default_format: str) -> bytes:
        """The answer to a statement that came with the `options` of a URL."""
        parameters = {k.removeprefix("param_"): v for k, v in options.items() if k.startswith("param_")}
        # A session keeps its settings and its database, and what a user's profile says cannot be put back: it is only
        # used for statements with the same ones.
        settings = sorted((k, v) for k, v in options.items() if k not in _HTTP_ONLY and not k.startswith("param_"))
        wanted = (*settings, *([("database", options["database"])] if "database" in options else []))
        with self._turns:
            try:
                session = self._session(wanted)
                try:
                    marked = self._with_id(sql, options["query_id"])
                    answer = session.query(marked, default_format, params=parameters or None)
                finally:
                    self._put_back(wanted, session)
            except RuntimeError as error:
                raise StatementFailed(str(error)) from error
        result = answer.bytes() if hasattr(answer, "bytes") else answer
        return (result.encode() if isinstance(result, str) else result) or b""

    def _session(self, wanted: tuple):
        """One with these settings and this database. What is refused leaves a session as it was."""
        with self._lock:
            ready = self._sessions.setdefault(wanted, [])
            if ready:
                return ready.pop()
            plain = self._sessions[()]
            session = plain.pop() if plain else self._open()
        has: tuple = ()
        try:
            for name, database in wanted:
                if name == "database":
                    session.query(f"USE {quoted(database)}")
                    has = ((name, database),)
            settings = [f"{name} = {_literal(value)}" for name, value in wanted if name != "database"]
            if settings:
                session.query(f"SET {', '.join(settings)}")
        except RuntimeError:
            self._put_back(has, session)
            raise
        return session

    def _put_back(self, has: tuple, session) -> None:
        with self._lock:
            self._sessions.setdefault(has, []).append(session)

    def rows(self, sql: str, parameters: dict[str, str] | None = None) -> list[list[str]]:
        """The rows of a statement of the rig's own, as text."""
        options = {f"param_{name}": value for name, value in (parameters or {}).items()} | {"query_id": "rig"}
        options |= _OWN
        return [line.split("\t") for line in self.execute(sql, options, "TabSeparatedRaw").decode().splitlines()]

    def _with_id(self, sql: str, query_id: str) -> str:
        if re.match(r"\s*KILL\s+QUERY\b", sql, re.IGNORECASE):
            return re.sub(r"\bquery_id\b", lambda _: self._ID, sql)
        sql = re.sub(r"`?\bsystem\b`?\.`?\bprocesses\b`?", lambda _: self._PROCESSES, sql)
        return f"/* query_id={query_id.replace('*/', '')} */ {sql}"

    def stop(self) -> None:
        """Leave ZooKeeper as a stopping server does, so that the ephemeral nodes go at once.

        Closing the sessions would abort the process; detaching the databases stops their tables as well, and the next
        start has them back.
        """
        self._exchange.shutdown()
        self._exchange.server_close()
        own = "SELECT name FROM system.databases WHERE engine IN ('Atomic', 'Ordinary', 'Replicated')"
        for (name,) in self.rows(own):
            deadline = time.monotonic() + 10
            while True:
                try:
                    self.rows(f"DETACH DATABASE {quoted(name)}")
                    break
                # A table may still be used by a statement under way.
                except StatementFailed as error:
                    if time.monotonic() > deadline:
                        print(f"database {name} is left as it is: {error}", flush=True)
                        break


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class RealServer:
    """A `clickhouse server` process of this host's own, asked over HTTP; it dies with this process."""

    def __init__(self, engine: str, config: str, data: str, port: int):
        self._port, self._stopping = port, False
        log = open(Path(data).with_name("server.out"), "ab")
        server = [*real_server.command(engine), "server", f"--config-file={config}"]
        bound = ["setpriv", "--pdeathsig", "KILL", "--", *server]
        # With its watchdog the child would be that, and the server would outlive a SIGKILL.
        environment = os.environ | {"CLICKHOUSE_WATCHDOG_ENABLE": "0"}
        self._server = subprocess.Popen(
            bound, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )
        threading.Thread(target=self._follow, daemon=True, name="server").start()
        wait_for(self._answers, "the ClickHouse server to answer", timeout=120)

    def _follow(self) -> None:
        # A host whose server has crashed is a crashed host.
        self._server.wait()
        if not self._stopping:
            os._exit(1)

    def _answers(self) -> bool:
        # Not by a statement: the user may have no right to any, or a profile that changes what it answers.
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() == b"Ok.\n"
        except OSError:
            return False
        finally:
            connection.close()

    def execute(self, sql: str, options: dict[str, str], default_format: str) -> bytes:
        """The answer to a statement that came with the `options` of a URL."""
        rest = {k: v for k, v in options.items() if k != "query"} | {"default_format": default_format}
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request("POST", "/?" + urlencode(rest), body=sql.encode())
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise StatementFailed(body.decode(errors="replace").strip())
        return body

    def stop(self) -> None:
        """Stop the server, which leaves ZooKeeper by itself."""
        self._stopping = True
        self._server.terminate()
        wait_for(lambda: not alive(self._server.pid), "the ClickHouse server to stop", timeout=120)
