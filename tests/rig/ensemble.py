"""An ensemble of three ZooKeeper servers, of which one may see what the others have agreed on later than they do."""

import contextlib
import queue
import socket
import threading
import time
from pathlib import Path

from listener import Listener
from processes import free_port
from zookeeper_server import Client, ZooKeeper

SIZE = 3


class Ensemble:
    """Two servers of a majority, and a follower that lags behind them once it is told to.

    It stands where a test cluster has its one ZooKeeper.
    """

    def __init__(self, directory: Path):
        self.servers = [ZooKeeper(directory / str(number)) for number in range(1, SIZE + 1)]
        self._lines = [_Line(free_port()) for _ in self.servers]
        elections = [free_port() for _ in self.servers]
        for number, server in enumerate(self.servers, 1):
            server.configure({"initLimit": 20, "syncLimit": 10})
            (server.directory / "data" / "myid").write_text(str(number))
            for other, (line, election) in enumerate(zip(self._lines, elections, strict=True), 1):
                # The laggard reaches the others by the lines.
                quorum = line.port if server is self.laggard and other != number else line.server_port
                server.configure({f"server.{other}": f"127.0.0.1:{quorum}:{election}"})

    @property
    def laggard(self) -> ZooKeeper:
        """The follower that may lag."""
        return self.servers[-1]

    @property
    def ports(self) -> list[int]:
        """Of all servers."""
        return [server.port for server in self.servers]

    @property
    def address(self) -> str:
        """Its servers but the laggard, as clients write it."""
        return ",".join(server.address for server in self.servers[:-1])

    def client(self, root: str = ""):
        """A connected kazoo client, of any server but the laggard."""
        return Client(self.address + root)

    def start(self) -> None:
        """Start it; the laggard last, so that it follows."""
        for server in self.servers[:-1]:
            server.spawn()
        for server in self.servers[:-1]:
            server.until_it_answers()
        self.laggard.start()

    def kill(self) -> None:
        """Crash all of it."""
        for server in self.servers:
            server.kill()
        for line in self._lines:
            line.close()

    def lag(self, seconds: float) -> None:
        """From now on the laggard hears so late what the others have agreed on."""
        for line in self._lines:
            line.delay = seconds

    def leader(self) -> ZooKeeper:
        """The server that leads now."""
        return next(server for server in self.servers if server.is_leader)


class _Line(Listener):
    """Passes on what comes at a port to another, the answers late."""

    def __init__(self, server_port: int):
        self.server_port, self.delay = server_port, 0.0
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        """Serve a connection."""
        try:
            server = socket.create_connection(("127.0.0.1", self.server_port))
        except OSError:
            client.close()
            return
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._answers, args=(waiting, client), daemon=True).start()
        threading.Thread(target=_receive, args=(server, waiting), daemon=True).start()
        with contextlib.suppress(OSError):
            while received := client.recv(65536):
                server.sendall(received)
        for side in (client, server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _answers(self, waiting: queue.SimpleQueue, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                came, received = waiting.get()
                time.sleep(max(0.0, came + self.delay - time.monotonic()))
                if not received:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(received)


def _receive(server: socket.socket, waiting: queue.SimpleQueue) -> None:
    received = b"."
    while received:
        try:
            received = server.recv(65536)
        except OSError:
            received = b""
        waiting.put((time.monotonic(), received))
