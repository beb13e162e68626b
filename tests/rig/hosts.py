"""The ClickHouse hosts of a test cluster: their files and their processes."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import real_server
import wheels
from clickhouse import ClickHouse
from processes import alive, end, free_port, peak_memory, wait_for
from zookeeper_server import ZooKeeper

HERE = Path(__file__).resolve().parent
SESSION_TIMEOUT_MS = 4000
# Engines in the host's own process; the last one is that of requirements.txt.
EMBEDDED = ("26.3", "26.9")
ENGINES = (*real_server.VERSIONS, *EMBEDDED)
# What the whole life of a host is known by; `rig.py restart` finds it there too.
HOST_FILE = "host.json"
# There once the host is not to be started any more.
CLOSED_FILE = "closed"
START_TIMEOUT = 120


class Host(ClickHouse):
    """One ClickHouse host, whose process may be restarted by others (an agent) as well."""

    def __init__(self, directory: Path, name: str, shard: str, replica: str, zookeeper: ZooKeeper, **options):
        super().__init__(name, shard, free_port(), options.pop("password", ""))
        self.directory, self.replica = directory, replica
        self.interserver_port = free_port()
        engine = options.pop("engine", None) or os.environ.get("REKEEPER_ENGINE") or EMBEDDED[-1]
        # A real server: a version that real_server.py knows, or the path of a binary.
        self._server = os.environ.get("CLICKHOUSE_BINARY") or (None if engine in EMBEDDED else engine)
        self._library = wheels.folder_of(engine) if engine in EMBEDDED[:-1] and not self._server else None
        self._server_port = free_port() if self._server else 0
        if self._server:
            real_server.command(self._server)  # fetched here and now, since its start has a time limit
        self.config = directory / "config.xml"
        self.data = directory / "data"
        self.log = directory / "engine.log"
        self._faults = directory / "faults.json"
        self._fault_number = 0
        self.query_log_file = directory / "queries.jsonl"
        self.data.mkdir(parents=True)
        self.configure(zookeeper, **options)
        (directory / HOST_FILE).write_text(json.dumps({"command": self._command()}))

    def configure(
        self,
        zookeeper: ZooKeeper,
        root: str = "",
        auxiliary: dict[str, ZooKeeper] | None = None,
        identity: str = "",
        more: str = "",
        users: Path | None = None,
    ) -> None:
        """Write config.xml, with `more` elements in it; a host that runs reads it at its next start.

        `identity` is `user:password`, for the ensemble that is called default; `users` a users.xml instead of the rig's one user.
        """
        more += self.users_settings(users)
        text = _config(self, zookeeper, root, auxiliary or {}, more)
        if identity:
            text = text.replace("</zookeeper>", f"<identity>{escape(identity)}</identity></zookeeper>")
        self.config.write_text(text)

    def start(self) -> None:
        """Start the process and wait until it answers; it ends with this process."""
        start_process(self.directory, owner=os.getpid())

    @property
    def active_config(self) -> Path:
        """The configuration with all that its parts add up to: where Rekeeper's agent reads the ensembles from."""
        return self.data / "preprocessed_configs" / "config.xml" if self._server else self.config

    def stop(self) -> None:
        """Stop it as a server is stopped."""
        end_process(self.directory, signal.SIGTERM)

    def kill(self) -> None:
        """Crash it."""
        end_process(self.directory, signal.SIGKILL)

    def close(self) -> None:
        """End it for good, also when an agent is about to start it again."""
        with _locked(self.directory):
            (self.directory / CLOSED_FILE).touch()
            if "pid" in json.loads((self.directory / HOST_FILE).read_text()):
                self.kill()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        """The process of its latest start."""
        return _pid(self.directory)

    @property
    def engine_pid(self) -> int:
        """The process that the engine is in: a real server's own, or that of the host."""
        if not self._server:
            return self.pid
        children = set()
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
                children |= set((task / "children").read_text().split())
        (server,) = children
        return int(server)

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return alive(self.pid)

    def peak_memory(self) -> int:
        """In bytes, since its latest start."""
        return peak_memory(self.engine_pid)

    def set_faults(self, *rules: dict) -> None:
        """Let the host fail statements from now on; the rules are described in faults.py."""
        self._fault_number += 1
        marked = [{"id": f"{self._fault_number}.{number}", **rule} for number, rule in enumerate(rules)]
        new = self._faults.with_suffix(".new")
        new.write_text(json.dumps(marked))
        new.replace(self._faults)

    def clear_faults(self) -> None:
        """Let go what is held, and fail nothing any more."""
        self.set_faults()

    def query_log(self, event: str = "start") -> list[dict]:
        """The records of one kind, in order: `start`, `held` or `end`. Those of all starts of the host."""
        if not self.query_log_file.exists():
            return []
        # The last line may be half written by a host that was killed, or is just being written.
        lines = self.query_log_file.read_text().split("\n")[:-1]
        return [record for record in map(json.loads, lines) if record["event"] == event]

    def server_settings(self) -> str:
        """What a real server needs in config.xml; the embedded engine is told it otherwise, or not at all.

        The password is checked before the statement gets to the server, so there the user has none.
        """
        if not self._server:
            return ""
        return f"""
  <listen_host>127.0.0.1</listen_host>
  <http_port>{self._server_port}</http_port>
  <interserver_http_host>127.0.0.1</interserver_http_host>
  <interserver_http_port>{self.interserver_port}</interserver_http_port>
  <path>{self.data}/</path>
  <tmp_path>{self.data}/tmp/</tmp_path>
  <user_files_path>{self.data}/user_files/</user_files_path>
  <format_schema_path>{self.data}/format_schemas/</format_schema_path>
  <mark_cache_size>268435456</mark_cache_size>
  <!-- A server that stops waits for the connections of its peers: 31 s on 24.8 with its own default. -->
  <keep_alive_timeout>1</keep_alive_timeout>
  <!-- A tenth of what many servers on one machine used of its CPU: each reads all sockets of /proc every second. -->
  <asynchronous_metrics_update_period_s>60</asynchronous_metrics_update_period_s>"""

    def users_settings(self, users: Path | None) -> str:
        """Where the users are."""
        if not self._server:
            return f"<users_config>{users}</users_config>" if users else ""
        own = """
  <users><default>
    <password></password>
    <networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile>
    <quota>default</quota>
    <access_management>1</access_management>
  </default></users>
  <profiles><default/></profiles>
  <quotas><default/></quotas>"""
        return f"""{"" if users else own}
  <user_directories>
    <users_xml><path>{users or self.config}</path></users_xml>
    <local_directory><path>{self.data}/access/</path></local_directory>
  </user_directories>"""

    @property
    def server_url(self) -> str:
        """Of a real server itself, which looks at users and their passwords, and fails no statement."""
        return f"http://127.0.0.1:{self._server_port}"

    def _command(self) -> list[str]:
        command = [sys.executable, HERE / "clickhouse_host.py", "--config", self.config, "--data", self.data]
        command += ["--port", self.port, "--interserver-port", self.interserver_port]
        command += ["--query-log", self.query_log_file, "--faults", self._faults, "--password", self.password]
        if self._server:
            command += ["--server", self._server, "--server-port", self._server_port]
        if self._library:
            command += ["--library", self._library]
        return [str(word) for word in command]


def start_process(directory: Path, owner: int) -> None:
    """Start the host that lives in `directory`; it lives on when this process ends, and ends with `owner`."""
    output = directory / "host.out"
    with _locked(directory), open(output, "wb") as out:
        if (directory / CLOSED_FILE).exists():
            raise RuntimeError(f"{directory.name} is closed")
        state = json.loads((directory / HOST_FILE).read_text())
        command = [*state["command"], "--owner-pid", str(owner)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        state |= {"pid": process.pid, "owner": owner}
        new = directory / (HOST_FILE + ".new")
        new.write_text(json.dumps(state))
        new.replace(directory / HOST_FILE)

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{directory.name} ended while starting: {output.read_text()[-2000:]}")
        return "ready" in output.read_text().splitlines()

    wait_for(is_ready, f"{directory.name} to start", START_TIMEOUT)


def end_process(directory: Path, how: signal.Signals) -> None:
    """End the process of the host that lives in `directory`."""
    end(_pid(directory), how)


@contextlib.contextmanager
def _locked(directory: Path):
    with open(directory / (HOST_FILE + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pid(directory: Path) -> int:
    return json.loads((directory / HOST_FILE).read_text())["pid"]


def _config(host: Host, zookeeper: ZooKeeper, root: str, auxiliary: dict[str, ZooKeeper], more: str) -> str:
    def ensemble(server: ZooKeeper, root: str) -> str:
        # Hosts of the embedded engine that share a sessions_path end each other's sessions.
        return (
            "".join(f"<node><host>127.0.0.1</host><port>{port}</port></node>" for port in server.ports)
            + f"<session_timeout_ms>{SESSION_TIMEOUT_MS}</session_timeout_ms>"
            f"<operation_timeout_ms>10000</operation_timeout_ms>"
            f"<sessions_path>/sessions/{host.name}</sessions_path>" + (f"<root>{escape(root)}</root>" if root else "")
        )

    others = "".join(f"<{name}>{ensemble(server, '')}</{name}>" for name, server in auxiliary.items())
    return f"""<clickhouse>
  <zookeeper>{ensemble(zookeeper, root)}</zookeeper>
  <auxiliary_zookeepers>{others}</auxiliary_zookeepers>
  <!-- The embedded engine's own pools have 1 or 2 threads; these are a server's. -->
  <background_schedule_pool_size>128</background_schedule_pool_size>
  <background_pool_size>16</background_pool_size>
  <background_fetches_pool_size>16</background_fetches_pool_size>
  <background_common_pool_size>8</background_common_pool_size>
  <!-- The other caches have a size by themselves; this one is asked only by statements that say so. -->
  <uncompressed_cache_size>67108864</uncompressed_cache_size>
  <macros><shard>{host.shard}</shard><replica>{host.replica}</replica></macros>
  <logger><level>information</level><log>{host.log}</log><console>0</console></logger>
  <storage_configuration>
    <disks>
      <object_storage><type>local</type><path>{host.directory}/object_storage/</path></object_storage>
    </disks>
    <policies>
      <object_storage><volumes><main><disk>object_storage</disk></main></volumes></object_storage>
    </policies>
  </storage_configuration>
  {host.server_settings()}
  {more}
</clickhouse>
"""
