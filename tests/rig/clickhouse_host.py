#!/usr/bin/env python3
"""One ClickHouse host of the test rig: the real engine behind ClickHouse's HTTP interface.

    clickhouse_host.py --config config.xml --data DIR --port N --interserver-port N
                       [--query-log FILE] [--faults FILE] [--password TEXT] [--owner-pid PID]
                       [--server ENGINE --server-port N | --library DIR]

Prints `ready` when it answers. SIGTERM stops it as a server is stopped, SIGKILL is a crash (its ephemeral nodes stay
until the session times out), and it ends by itself when the process of --owner-pid is gone. With --server the
statements go to a real server started beside it, so that the query log and the fault switch (faults.py) work there too:
a version that real_server.py knows, or the path of a binary. With --library the engine is the one in that folder.
"""

import argparse
import base64
import email
import email.policy
import itertools
import json
import os
import signal
import sys
import threading
import time
import types
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from clickhouse import StatementFailed
from engines import EmbeddedEngine, RealServer
from faults import Dropped, Faults, Injected
from processes import when_owner_is_gone

ADDRESS = "127.0.0.1"
STATUS_BY_CODE = {60: 404, 81: 404, 497: 403, 516: 403}
AUTHENTICATION_FAILED = 516
SAME_ID_IS_RUNNING = 216


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interserver-port", type=int, required=True)
    parser.add_argument("--sessions", type=int, default=32, help="how many statements run at the same time")
    parser.add_argument("--query-log")
    parser.add_argument("--faults")
    parser.add_argument("--password", default="")
    parser.add_argument("--owner-pid", type=int)
    parser.add_argument("--server")
    parser.add_argument("--server-port", type=int)
    parser.add_argument("--library")
    return parser.parse_args()


class QueryLog:
    """JSON lines: a record when a statement arrives, when a fault holds it, and when it ends."""

    def __init__(self, file: str | None):
        self._file = open(file, "a") if file else None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        return next(self._numbers)

    def write(self, event: str, number: int, **fields) -> None:
        if self._file:
            record = {"event": event, "pid": os.getpid(), "number": number, "time": time.time(), **fields}
            with self._lock:
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()


class Host:
    """Takes statements and has them executed, unless the fault switch says otherwise."""

    def __init__(self, engine, log: QueryLog, faults: Faults, password: str):
        self.engine, self.log, self.faults, self.password = engine, log, faults, password
        try:
            version = engine.execute("SELECT version()", {"query_id": "rig-version"}, "TabSeparated")
            self.version = version.decode().strip()
        except StatementFailed:
            self.version = "not told to its user"
        self.stopping = threading.Event()
        self._running: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, sql: str, options: dict[str, str], default_format: str) -> bytes:
        """Execute one statement of a client."""
        query_id, number = options["query_id"], self.log.next_number()
        started, failure = time.monotonic(), None
        self.log.write("start", number, query_id=query_id, sql=sql)
        with self._lock:
            is_new = query_id not in self._running
            self._running.add(query_id)
        try:
            if not is_new:
                text = f"Code: {SAME_ID_IS_RUNNING}. DB::Exception: Query with id = {query_id} is already running."
                raise StatementFailed(f"{text} (QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING)")
            self._apply_faults(sql, query_id, number, executed=False)
            result = self.engine.execute(self.faults.replaced(sql), options, default_format)
            self._apply_faults(sql, query_id, number, executed=True)
            return result
        except (StatementFailed, Dropped) as error:
            failure = str(error) or "dropped"
            raise
        finally:
            if is_new:
                with self._lock:
                    self._running.discard(query_id)
            took = round(time.monotonic() - started, 4)
            self.log.write("end", number, query_id=query_id, sql=sql, error=failure, took=took)

    def _apply_faults(self, sql: str, query_id: str, number: int, *, executed: bool) -> None:
        def on_held():
            self.log.write("held", number, query_id=query_id, sql=sql)

        try:
            self.faults.apply(sql, executed=executed, on_held=on_held)
        except Injected as error:
            raise StatementFailed(str(error)) from error


def handler(host: Host):
    """The class of request handlers that speaks ClickHouse's HTTP interface for `host`."""

    class StatementHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer on a connection that is kept open waits 40 ms

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.statement(b"")

        def do_POST(self):
            self.statement(self.body())

        def statement(self, body: bytes) -> None:
            if host.stopping.is_set():
                self.close_connection = True
                return
            url = urlsplit(self.path)
            if url.path == "/ping":
                return self.reply(200, b"Ok.\n")
            options = dict(parse_qsl(url.query, keep_blank_values=True))
            content_type = self.headers.get("Content-Type") or ""
            if content_type.startswith("multipart/form-data"):
                options |= multipart_fields(content_type, body)
                body = b""
            sql = "\n".join(text for text in (options.get("query", ""), body.decode()) if text)
            if not sql:
                return self.reply(200, b"Ok.\n")
            options["query_id"] = options.get("query_id") or str(uuid.uuid4())
            format_ = options.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
            headers = {"X-ClickHouse-Query-Id": options["query_id"], "X-ClickHouse-Format": format_}
            try:
                self.check_password(options)
                self.reply(200, host.answer(sql, options, format_), headers)
            except Dropped:
                self.close_connection = True
            except StatementFailed as error:
                headers["X-ClickHouse-Exception-Code"] = str(error.code)
                text = f"{error} (version {host.version})\n".encode()
                self.reply(STATUS_BY_CODE.get(error.code, 500), text, headers)

        def check_password(self, options: dict[str, str]) -> None:
            given = self.headers.get("X-ClickHouse-Key") or options.get("password", "")
            authorization = self.headers.get("Authorization") or ""
            if authorization.startswith("Basic "):
                given = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")[2]
            if given != host.password:
                text = f"Code: {AUTHENTICATION_FAILED}. DB::Exception: default: Authentication failed: password is"
                raise StatementFailed(f"{text} incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)")

        def body(self) -> bytes:
            if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = bytearray()
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(body)

        def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("X-ClickHouse-Server-Display-Name", ADDRESS)
            self.send_header("Content-Type", "text/plain; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
            try:
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client did not wait; its statement was executed all the same

    return StatementHandler


def multipart_fields(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form, which is how the `clickhouse` crate sends parameters."""
    head = b"Content-Type: " + content_type.encode() + b"\r\n\r\n"
    form = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True).decode()
        for part in form.iter_parts()
    }


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    args = arguments()
    if args.owner_pid:
        when_owner_is_gone(args.owner_pid, lambda: os._exit(1))
    if args.server:
        engine = RealServer(args.server, args.config, args.data, args.server_port)
    else:
        if args.library:
            sys.path.insert(0, args.library)
            # Up to 26.5 it is imported, and used for nothing that is done here.
            pyarrow = types.ModuleType("pyarrow")
            pyarrow.__getattr__ = lambda _: object
            sys.modules["pyarrow"] = pyarrow
        engine = EmbeddedEngine(args.config, args.data, ADDRESS, args.interserver_port, args.sessions)
    host = Host(engine, QueryLog(args.query_log), Faults(args.faults), args.password)
    server = Server((ADDRESS, args.port), handler(host))

    # In a thread, because `shutdown` waits for `serve_forever`, which the signal's handler interrupts.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    print("ready", flush=True)
    server.serve_forever(poll_interval=0.05)
    host.stopping.set()
    server.server_close()
    engine.stop()
    # Not `sys.exit`: the engine aborts when the interpreter takes its sessions down.
    os._exit(0)


if __name__ == "__main__":
    main()
