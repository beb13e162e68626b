"""TLS in front of a server that speaks none itself, as a proxy on a port of its own."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path

from listener import Listener


class TlsFront(Listener):
    """Takes TLS connections with a certificate, and passes on what they carry."""

    def __init__(self, port: int, cert: Path, key: Path):
        self._server_port = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert, key)
        super().__init__()

    def serve(self, plain: socket.socket) -> None:
        """Serve a connection."""
        # A caller that does not trust the certificate ends the handshake.
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as client:
            with socket.create_connection(("127.0.0.1", self._server_port)) as server:
                answers = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
                answers.start()
                _pass_on(client, server)
                answers.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while received := source.recv(65536):
            sink.sendall(received)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
