"""A proxy between agents and ZooKeeper that keeps back a request, so that a test can strike while it is under way."""

import contextlib
import re
import socket
import struct
import threading

from listener import Listener, one_frame

_PING = 11
_PING_FRAME = struct.pack(">iii", 8, -2, _PING)
_PING_SECONDS = 1
# The request that opens a connection has no type.
_KINDS = {1: "create", 2: "delete", 3: "exists", 4: "getData", 5: "setData", 7: "setACL", 8: "getChildren"}
_KINDS |= {12: "getChildren2", 14: "multi", 15: "create2", 22: "multiRead"}


class ZooKeeperProxy(Listener):
    """Listens on a port of its own and passes everything on, except what `hold` names."""

    def __init__(self, port: int):
        # Where connections go that are made from now on.
        self.server_port = port
        self._changed = threading.Condition()
        self._wanted: tuple[str, re.Pattern, int] | None = None
        self._held: str | None = None
        # How many requests that were kept back ZooKeeper has answered since.
        self.answered = 0
        super().__init__()

    def hold(self, kind: str, pattern: str, skip: int = 0) -> None:
        """Keep back the first request of that kind (a regular expression, such as `multi`) whose bytes match, and all
        that its connection sends after it except pings. `skip` requests that match pass before. What is kept back now
        is passed on; of what its connection has sent since, nothing is kept back."""
        with self._changed:
            self._wanted, self._held = (kind, re.compile(pattern.encode(), re.DOTALL), skip), None
            self._changed.notify_all()

    @property
    def is_armed(self) -> bool:
        """Whether a request is waited for, or kept back."""
        return self._wanted is not None

    @property
    def held(self) -> str | None:
        """What is kept back now: the kind of the request and what of it matched."""
        return self._held

    def let_go(self) -> None:
        """Pass on what was kept back, also when whoever sent it has gone since; keep nothing back any more."""
        with self._changed:
            self._wanted = self._held = None
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        super().close()
        self.let_go()

    def serve(self, client: socket.socket) -> None:
        """Serve a connection."""
        try:
            server = socket.create_connection(("127.0.0.1", self.server_port))
        except OSError:
            client.close()
            return
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(server)
        threading.Thread(target=self._answers, args=(connection, client), daemon=True).start()
        with contextlib.suppress(OSError):
            while frame := _frame(client):
                self._request(connection, frame)
        # What is kept back is under way, whatever became of the sender, and its session lives until it has arrived.
        while not self._is_delivered(connection):
            with contextlib.suppress(OSError):
                server.sendall(_PING_FRAME)
        for side in (server, client):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def _request(self, connection: "_Connection", frame: bytes) -> None:
        kind = connection.kind(frame)
        with self._changed:
            if not connection.waiting and self._is_wanted(kind, frame):
                threading.Thread(target=self._release, args=(connection,), daemon=True).start()
                connection.waiting.append(frame)
            elif connection.waiting and kind != "ping":
                connection.waiting.append(frame)
            else:
                connection.server.sendall(frame)

    def _is_wanted(self, kind: str, frame: bytes) -> bool:
        if self._wanted is None or self._held is not None:
            return False
        wanted, pattern, skip = self._wanted
        found = pattern.search(frame)
        if not re.fullmatch(wanted, kind) or not found:
            return False
        if skip:
            self._wanted = (wanted, pattern, skip - 1)
            return False
        self._held = f"{kind} {found[0].decode(errors='replace')}"
        return True

    def _is_delivered(self, connection: "_Connection") -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: not connection.waiting, _PING_SECONDS):
                return False
            self._changed.wait_for(lambda: not connection.unanswered, _PING_SECONDS)
            return True

    def _release(self, connection: "_Connection") -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._held is None)
            connection.unanswered = {frame[4:8] for frame in connection.waiting}
            with contextlib.suppress(OSError):
                connection.server.sendall(b"".join(connection.waiting))
            connection.waiting.clear()
            self._changed.notify_all()

    def _answers(self, connection: "_Connection", client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := _frame(connection.server):
                with self._changed:
                    if answer[4:8] in connection.unanswered:
                        connection.unanswered.discard(answer[4:8])
                        self.answered += 1
                        self._changed.notify_all()
                # Whoever asked may have gone.
                with contextlib.suppress(OSError):
                    client.sendall(answer)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class _Connection:
    def __init__(self, server: socket.socket):
        self.server = server
        self.waiting: list[bytes] = []
        # Numbers of the requests that were kept back, and passed on since.
        self.unanswered: set[bytes] = set()
        self._is_new = True

    def kind(self, frame: bytes) -> str:
        """The kind of a request; frames come in order."""
        if self._is_new:
            self._is_new = False
            return "connect"
        (number,) = struct.unpack_from(">i", frame, 8)
        return "ping" if number == _PING else _KINDS.get(number, str(number))


def _frame(connection: socket.socket) -> bytes:
    """One request with its length in front; empty at the end of the connection."""
    body = one_frame(connection)
    return struct.pack(">i", len(body)) + body if body else b""
