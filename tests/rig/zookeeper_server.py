"""A real ZooKeeper for the tests: Debian's 3.8, one process with a data directory and a port of its own."""

import shutil
import signal
import socket
import subprocess
from pathlib import Path

from processes import alive, end, free_port, peak_memory, spawn_bound, wait_for

CLASS_PATH = "/usr/share/java/zookeeper.jar"
# What it needs for TLS, and does not name itself; it comes with the package.
NETTY = "/usr/share/java/netty-codec.jar"


class ZooKeeper:
    """One standalone server; it dies with the process that started it."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = free_port()
        self.ports = [self.port]
        self.address = f"127.0.0.1:{self.port}"
        # Of clients that speak TLS, once it does.
        self.secure_port: int | None = None
        self._class_path = f"{directory}:{CLASS_PATH}"
        # The most that a request may have, `jute.maxbuffer`, from its next start on; ZooKeeper's own is 1 MiB.
        self.packet_bytes: int | None = None
        self._process: subprocess.Popen | None = None
        self._data = directory / "data"
        self._data.mkdir(parents=True)
        self._configuration = directory / "zoo.cfg"
        settings = {
            # Sessions may be as short as two ticks; the hosts ask for 4 s.
            "tickTime": 1000,
            "maxSessionTimeout": 60_000,
            "dataDir": self._data,
            "clientPort": self.port,
            "clientPortAddress": "127.0.0.1",
            "maxClientCnxns": 0,
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "*",
            # Tests crash processes, not machines: what is written is safe without waiting for the disk.
            "forceSync": "no",
        }
        self._configuration.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        log4j = "log4j.rootLogger=WARN, out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\n"
        log4j += "log4j.appender.out.layout=org.apache.log4j.PatternLayout\n"
        log4j += "log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1} %m%n\n"
        (directory / "log4j.properties").write_text(log4j)

    def configure(self, settings: dict) -> None:
        """Add settings to its configuration; it reads them at its next start."""
        with open(self._configuration, "a") as configuration:
            configuration.writelines(f"{key}={value}\n" for key, value in settings.items())

    def speak_tls(self, ca: Path, cert: Path, key: Path) -> None:
        """Take clients on another port, too, that speak TLS and have a certificate; from its next start on."""
        self.secure_port = self.secure_port or free_port()
        own = self.directory / "own.pem"
        own.write_text(key.read_text() + cert.read_text())
        settings = {
            "secureClientPort": self.secure_port,
            "secureClientPortAddress": "127.0.0.1",
            "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
            "ssl.keyStore.location": own,
            "ssl.keyStore.type": "PEM",
            "ssl.trustStore.location": ca,
            "ssl.trustStore.type": "PEM",
            "ssl.clientAuth": "need",
        }
        self.configure(settings)
        self._class_path = f"{NETTY}:{self.directory}:{CLASS_PATH}"

    @property
    def is_leader(self) -> bool:
        """Whether it leads an ensemble."""
        return "\nMode: leader\n" in self.command("srvr")

    def spawn(self) -> None:
        """Start it."""
        command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += [f"-Djute.maxbuffer={self.packet_bytes}"] if self.packet_bytes else []
        command += ["-cp", self._class_path]
        command += ["org.apache.zookeeper.server.quorum.QuorumPeerMain", self._configuration]
        self._process = spawn_bound(command, self.directory / "zookeeper.log")

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.spawn()
        self.until_it_answers()

    def until_it_answers(self) -> None:
        """Wait until it takes clients."""
        wait_for(lambda: self._answers() or self._fail_if_ended(), f"ZooKeeper at {self.address}", timeout=60)

    def stop(self) -> None:
        """End it; what it holds stays on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Crash it."""
        self._end(signal.SIGKILL)

    def lose_everything(self) -> None:
        """What an ensemble that has lost its data looks like: it answers, and is empty."""
        self.kill()
        shutil.rmtree(self._data)
        self._data.mkdir()
        self.start()

    @property
    def pid(self) -> int:
        """The process of the latest start."""
        return self._process.pid

    def peak_memory(self) -> int:
        """In bytes."""
        return peak_memory(self._process.pid) if self._process else 0

    def client(self, root: str = ""):
        """A connected kazoo client, to be used in a `with` or stopped by the caller."""
        return Client(self.address + root)

    def command(self, four_letters: str) -> str:
        """What it answers to one of its four-letter words, such as `mntr`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(four_letters.encode())
            answer = bytearray()
            while received := connection.recv(65536):
                answer += received
        return answer.decode()

    def _answers(self) -> bool:
        try:
            return "\nMode: " in self.command("srvr")
        except OSError:
            return False

    def _fail_if_ended(self) -> bool:
        if not alive(self._process.pid):
            raise RuntimeError(f"ZooKeeper ended while starting, see {self.directory}/zookeeper.log")
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process:
            end(self._process.pid, how)
            self._process.wait()
            self._process = None


class Client:
    """A kazoo client as a context manager; kazoo's own is none."""

    def __init__(self, address: str):
        from kazoo.client import KazooClient

        self._client = KazooClient(hosts=address, timeout=10)

    def __enter__(self):
        self._client.start(timeout=30)
        return self._client

    def __exit__(self, *_) -> None:
        self._client.stop()
        self._client.close()
