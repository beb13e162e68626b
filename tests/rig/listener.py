"""A port of the rig's own, at which each connection is served by a thread of its own."""

import contextlib
import socket
import struct
import threading

from processes import free_port


class Listener:
    """What a proxy is made of: `serve` is called with each connection, at a free port if none is given."""

    def __init__(self, port: int = 0):
        self.port = port or free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True, name=type(self).__name__).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def serve(self, client: socket.socket) -> None:
        """Serve a connection."""
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()


def one_frame(side: socket.socket) -> bytes:
    """One request to ZooKeeper or answer of it, without its length; empty at the end of the connection."""
    head = exactly(side, 4)
    return exactly(side, struct.unpack(">i", head)[0]) if head else b""


def exactly(side: socket.socket, count: int) -> bytes:
    """So many bytes; empty when the connection ends before."""
    data = bytearray()
    while len(data) < count:
        received = side.recv(count - len(data))
        if not received:
            return b""
        data += received
    return bytes(data)
