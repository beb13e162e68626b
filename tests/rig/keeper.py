"""A stand-in for ClickHouse Keeper: a proxy that makes a real ZooKeeper answer as Keeper of a version does on the wire.

Storage, order and atomicity are ZooKeeper's own. What is changed, with its source in ClickHouse:
- requests that a version does not know end the connection, also within a multi (ZooKeeperConstants.cpp, getOpNum);
- a part of a multiRead that failed has no body (ZooKeeperMultiResponse::writeImpl; #58747);
- of an open node getACL gives an empty list, and entries for world:anyone are not kept (fixupACL; #82755);
- every reconnect gets a new session (KeeperTCPHandler.cpp, receiveHandshake; #116690);
- a handshake without the password, where there is one, gets no answer (the same function);
- -4 and -7 come on connections that live (KeeperDispatcher.cpp, addErrorResponses), as a test asks for.

    keeper.py PORT VERSION    one in front of the ZooKeeper at PORT: prints its own port, ends when standard input does
"""

import contextlib
import os
import re
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field

from listener import Listener, exactly, one_frame

GET, GET_ACL, SET_ACL, LIST, MULTI, CREATE2, MULTI_READ, AUTH = 4, 6, 7, 8, 14, 15, 22, 100
ALWAYS = {-11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, MULTI, AUTH}
OPEN = (31, b"world", b"anyone")
STAT = 68
PASSWORD = 16
OPERATION_TIMEOUT, CONNECTION_LOSS, AUTH_FAILED = -7, -4, -115


@dataclass(frozen=True)
class Version:
    """What a version knows."""

    name: str
    create2: bool = False

    @property
    def number(self) -> tuple[int, int]:
        """The version, to be compared."""
        major, minor = self.name.split(".")
        return int(major), int(minor)

    @property
    def known(self) -> set[int]:
        """The requests; MultiRead came with 22.10 (#41410), Create2 with 25.12 (#90741), where its flag is on."""
        known = set(ALWAYS)
        if self.number >= (22, 10):
            known.add(MULTI_READ)
        if self.number >= (25, 12) and self.create2:
            known.add(CREATE2)
        return known


@dataclass
class Fault:
    """The next `times` requests of a kind whose bytes match are answered with an error; `applied` all the same, or not."""

    kinds: set[int]
    pattern: re.Pattern
    error: int
    applied: bool
    times: int
    hit: int = field(default=0)


class Keeper(Listener):
    """Listens on a port of its own, in front of the ZooKeeper at `port`."""

    def __init__(self, port: int, version: Version, password: str = ""):
        self.server_port, self.version = port, version
        self.password = password.encode().ljust(PASSWORD, b"\0")
        self.ended: list[str] = []
        self.reconnects = 0
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        super().__init__()

    def fail(self, kinds: set[int], pattern: str, error: int, applied: bool, times: int = 1) -> Fault:
        """See `Fault`."""
        fault = Fault(kinds, re.compile(pattern.encode(), re.DOTALL), error, applied, times)
        with self.lock:
            self.faults.append(fault)
        return fault

    def drop_connections(self) -> None:
        """A server that goes: all its connections end, and their sessions live on until they expire."""
        with self.lock:
            clients = list(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def serve(self, client: socket.socket) -> None:
        """Serve a connection."""
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.server_port)) as server:
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self._clients.add(client)
            try:
                _Connection(self, client, server).run()
            finally:
                with self.lock:
                    self._clients.discard(client)

    def fault_of(self, kind: int, frame: bytes) -> Fault | None:
        """The fault that this request meets."""
        with self.lock:
            for fault in self.faults:
                if fault.hit < fault.times and kind in fault.kinds and fault.pattern.search(frame):
                    fault.hit += 1
                    return fault
        return None


class _Connection:
    def __init__(self, keeper: Keeper, client: socket.socket, server: socket.socket):
        self.keeper, self.client, self.server = keeper, client, server
        # By the number of a request: its kind, the kinds of its parts, and the fault that it meets.
        self.asked: dict[int, tuple[int, list[int], Fault | None]] = {}
        self.writing = threading.Lock()

    def run(self) -> None:
        if not self._handshake():
            return
        threading.Thread(target=self._answers, daemon=True).start()
        while (frame := one_frame(self.client)) and self._request(frame):
            pass
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)

    def _handshake(self) -> bool:
        # A four-letter word stands where a frame has its length (FourLetterCommand.cpp).
        if self.client.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL) == b"srvr":
            told = f"ClickHouse Keeper version: v{self.keeper.version.name}.1.1-stand-in\nMode: standalone\n"
            exactly(self.client, 4)
            self.client.sendall(told.encode())
            return False
        frame = one_frame(self.client)
        if not frame:
            return False
        _, _, timeout, session = struct.unpack_from(">iqiq", frame)
        at = struct.calcsize(">iqiqi")
        if frame[at : at + PASSWORD] != self.keeper.password:
            self.keeper.ended.append("Wrong password")
            return False
        if session:
            self.keeper.reconnects += 1
        # Neither the session nor the last transaction that the client names is looked at.
        asked = struct.pack(">iqiq", 0, 0, max(timeout, 10_000), 0) + struct.pack(">i", PASSWORD) + bytes(PASSWORD) + b"\0"
        self.server.sendall(struct.pack(">i", len(asked)) + asked)
        answer = one_frame(self.server)
        if not answer:
            return False
        _, timeout, session = struct.unpack_from(">iiq", answer)
        self._send(struct.pack(">iiq", 0, timeout, session) + struct.pack(">i", PASSWORD) + bytes(PASSWORD))
        return True

    def _send(self, body: bytes) -> None:
        with self.writing, contextlib.suppress(OSError):
            self.client.sendall(struct.pack(">i", len(body)) + body)

    def _request(self, frame: bytes) -> bool:
        number, kind = struct.unpack_from(">ii", frame)
        known = self.keeper.version.known
        parts = _parts(frame[8:]) if kind in (MULTI, MULTI_READ) else []
        for unknown in ({kind, *parts}) - known:
            self.keeper.ended.append(f"Operation {unknown} is unknown")
            return False
        if kind == AUTH:
            _, at = _text(frame, 12)
            if _text(frame, at)[0].count(b":") != 1:
                self._send(struct.pack(">iqi", number, 0, AUTH_FAILED))
                return True
        if kind == SET_ACL:
            frame = self._kept(frame)
        fault = self.keeper.fault_of(kind, frame)
        if fault and not fault.applied:
            self._send(struct.pack(">iqi", number, 0, fault.error))
            return True
        self.asked[number] = (kind, parts, fault)
        self.server.sendall(struct.pack(">i", len(frame)) + frame)
        return True

    def _kept(self, frame: bytes) -> bytes:
        path, at = _text(frame, 8)
        acls, at = _acls(frame, at)
        partial = self.keeper.version.number >= (25, 7)
        kept = [acl for acl in acls if acl[1:] != OPEN[1:] or (partial and acl[0] != OPEN[0])]
        return frame[:8] + _pack(path) + _packed(kept or [OPEN]) + frame[at:]

    def _answers(self) -> None:
        with contextlib.suppress(OSError):
            while frame := one_frame(self.server):
                number, transaction, error = struct.unpack_from(">iqi", frame)
                kind, parts, fault = self.asked.pop(number, (0, [], None)) if number >= 0 else (0, [], None)
                if fault:
                    frame = struct.pack(">iqi", number, transaction, fault.error)
                elif error == 0:
                    frame = frame[:16] + self._rewritten(kind, parts, frame[16:])
                self._send(frame)
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)

    def _rewritten(self, kind: int, parts: list[int], body: bytes) -> bytes:
        if kind == LIST and self.keeper.version.number < (22, 10):
            return body + bytes(STAT)
        if kind == GET_ACL:
            acls, at = _acls(body, 0)
            return _packed([acl for acl in acls if acl != OPEN]) + body[at:]
        if kind == MULTI_READ:
            return _without_bodies(parts, body)
        if kind == MULTI and CREATE2 in parts:
            return _with_stats(body)
        return body


def _parts(body: bytes) -> list[int]:
    at, kinds = 0, []
    while True:
        kind, done, _ = struct.unpack_from(">iBi", body, at)
        at += 9
        if done:
            return kinds
        kinds.append(kind)
        _, at = _text(body, at)
        if kind in (1, CREATE2, 19, 21):
            _, at = _text(body, at)
            _, at = _acls(body, at)
            at += 12 if kind == 21 else 4
        elif kind == 5:
            _, at = _text(body, at)
            at += 4
        else:
            at += 4 if kind in (2, 13) else 1


def _without_bodies(parts: list[int], body: bytes) -> bytes:
    out, at = bytearray(), 0
    for asked in parts:
        kind, _, error = struct.unpack_from(">iBi", body, at)
        begin, at = at, at + 9
        if kind == -1:
            at += 4
            out += struct.pack(">iBi", asked, 0, error)
            continue
        if kind == GET:
            _, at = _text(body, at)
            at += STAT
        else:
            (count,) = struct.unpack_from(">i", body, at)
            at += 4
            for _ in range(count):
                _, at = _text(body, at)
        out += body[begin:at]
    return bytes(out) + body[at:]


def _with_stats(body: bytes) -> bytes:
    """ZooKeeper 3.8.0 answers a Create2 within a multi as a Create; Keeper adds the stat."""
    out, at = bytearray(), 0
    while True:
        kind, done, _ = struct.unpack_from(">iBi", body, at)
        begin, at = at, at + 9
        if done:
            return bytes(out) + body[begin:]
        if kind in (1, CREATE2):
            _, at = _text(body, at)
            path = body[begin + 9 : at]
            at += STAT if kind == CREATE2 else 0
            out += struct.pack(">iBi", CREATE2, 0, 0) + path + bytes(STAT)
            continue
        at += {-1: 4, 5: STAT}.get(kind, 0)
        out += body[begin:at]


def _pack(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value


def _text(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">i", body, at)
    return body[at + 4 : at + 4 + max(length, 0)], at + 4 + max(length, 0)


def _acls(body: bytes, at: int) -> tuple[list[tuple[int, bytes, bytes]], int]:
    (count,) = struct.unpack_from(">i", body, at)
    at, acls = at + 4, []
    for _ in range(max(count, 0)):
        (permissions,) = struct.unpack_from(">i", body, at)
        scheme, at = _text(body, at + 4)
        identity, at = _text(body, at)
        acls.append((permissions, scheme, identity))
    return acls, at


def _packed(acls: list[tuple[int, bytes, bytes]]) -> bytes:
    entries = (struct.pack(">i", permissions) + _pack(scheme) + _pack(identity) for permissions, scheme, identity in acls)
    return struct.pack(">i", len(acls)) + b"".join(entries)


if __name__ == "__main__":
    print(Keeper(int(sys.argv[1]), Version(sys.argv[2])).port, flush=True)
    sys.stdin.read()
    # Its threads serve on.
    os._exit(0)
