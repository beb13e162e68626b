"""A cable between a program and a server: it passes everything on, until it is cut."""

import contextlib
import socket
import threading

from listener import Listener


class Cable(Listener):
    """Listens on a port of its own, or on `at`, in front of the server at `port`."""

    def __init__(self, port: int, at: int = 0):
        self.server_port = port
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(at)

    def cut(self) -> None:
        """All its connections end. What was asked on them goes on; new ones are taken."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            _shut(end)

    def serve(self, client: socket.socket) -> None:
        """Serve a connection."""
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.server_port)) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._ends |= {client, server}
            try:
                back = threading.Thread(target=_pass, args=(server, client), daemon=True)
                back.start()
                _pass(client, server)
                back.join()
            finally:
                with self._lock:
                    self._ends -= {client, server}


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _shut(target)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
