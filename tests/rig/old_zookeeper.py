"""ZooKeeper before 3.6, as far as agents notice: a proxy in front of a newer one.

It does not know multiRead, containers and nodes with a time to live, and says so (UnimplementedRequestProcessor).
"""

import contextlib
import socket
import struct
import threading

from listener import Listener, one_frame

CREATE_CONTAINER, CREATE_TTL, MULTI_READ = 19, 21, 22
UNKNOWN = {CREATE_CONTAINER, CREATE_TTL, MULTI_READ}
UNIMPLEMENTED = -6
# Asked in the place of what is unknown, so that answers keep their sequence: whether the root is there.
_EXISTS_ROOT = struct.pack(">ii", 3, 1) + b"/\0"


class OldZooKeeper(Listener):
    """Listens on a port of its own, in front of the ZooKeeper at `port`; counts the requests that it did not know."""

    def __init__(self, port: int):
        self.server_port, self.refused = port, 0
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        """Serve a connection."""
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.server_port)) as server:
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            unknown: set[int] = set()
            back = threading.Thread(target=_answers, args=(server, client, unknown), daemon=True)
            _send(server, one_frame(client))  # The handshake.
            back.start()
            while frame := one_frame(client):
                number, kind = struct.unpack_from(">ii", frame)
                if kind in UNKNOWN:
                    self.refused += 1
                    unknown.add(number)
                    frame = frame[:4] + _EXISTS_ROOT
                _send(server, frame)
            server.shutdown(socket.SHUT_RDWR)
            back.join()


def _answers(server: socket.socket, client: socket.socket, unknown: set[int]) -> None:
    with contextlib.suppress(OSError):
        _send(client, one_frame(server))
        while frame := one_frame(server):
            number, transaction = struct.unpack_from(">iq", frame)
            if number in unknown:
                unknown.discard(number)
                frame = struct.pack(">iqi", number, transaction, UNIMPLEMENTED)
            _send(client, frame)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def _send(side: socket.socket, frame: bytes) -> None:
    side.sendall(struct.pack(">i", len(frame)) + frame)
