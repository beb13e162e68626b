"""Rekeeper's own programs in a test cluster: coordinator, agents and command line, as real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from hosts import Host
from pki import Pki
from processes import alive, end, free_port, peak_memory, spawn_bound, wait_for

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
_NOBODY = 65534
# Exit codes of the command line.
DONE, PROBLEMS, USAGE, BLOCKED, UNREACHABLE = range(5)


def binary(name: str) -> Path:
    """The built program; REKEEPER_BIN says in which directory, otherwise the release build is preferred."""
    given = os.environ.get("REKEEPER_BIN")
    directories = [Path(given)] if given else [REPOSITORY / "target" / kind for kind in ("release", "debug")]
    for directory in directories:
        if (directory / name).exists():
            return directory / name
    raise FileNotFoundError(f"{name} is not in {' or '.join(map(str, directories))}")


class Program:
    """One daemon with a directory, a configuration file and a log of its own."""

    def __init__(self, directory: Path, program: str, configuration: dict):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.program = directory, program
        self.log = directory / f"{program}.log"
        self._process: subprocess.Popen | None = None
        # What it is started with, in front of its own command.
        self._by: list[str] = []
        self.configure(configuration)

    def configure(self, configuration: dict) -> None:
        """Write the configuration file; a daemon that runs reads it at its next start."""
        self.configuration = configuration
        self.configuration_file = self.directory / f"{self.program}.yaml"
        self.configuration_file.write_text(yaml.safe_dump(configuration, sort_keys=False))

    def start(self) -> None:
        """Start the process; it dies with this one."""
        self._process = spawn_bound([*self._by, binary(self.program), "--config", self.configuration_file], self.log)

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and alive(self._process.pid)

    @property
    def pid(self) -> int:
        """The process of the latest start."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How its process ended, none as long as it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Crash it."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Stop it as an init system does."""
        self._end(signal.SIGTERM)

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it in the given way and start it again."""
        self._end(how)
        self.start()

    def peak_memory(self) -> int:
        """In bytes, since the latest start."""
        return peak_memory(self._process.pid) if self._process else 0

    def log_tail(self, characters: int = 2000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def _end(self, how: signal.Signals) -> None:
        if self._process:
            end(self._process.pid, how)
            self._process.wait()


class Coordinator(Program):
    """`rekeeper-coordinator` on a port of the loopback interface, with the certificates of a PKI or without TLS."""

    def __init__(self, directory: Path, pki: Pki | None = None):
        self.port, self.pki = free_port(), pki
        self.url = f"{'https' if pki else 'http'}://127.0.0.1:{self.port}"
        settings = {"listen": f"127.0.0.1:{self.port}", "data_dir": "data"}
        if pki:
            settings["tls"] = pki.own("coordinator") | {"client_ca": str(pki.ca)}
        else:
            settings["insecure"] = True
        super().__init__(directory, "rekeeper-coordinator", settings)


class Agent(Program):
    """`rekeeper-agent` of one host. `rig.py restart` is its restart command, switch_root.py its hook.

    It speaks TLS if its coordinator does, with the certificate that has its host's name.
    """

    def __init__(self, directory: Path, host: Host, coordinator: Coordinator):
        self.host = host
        settings = {
            "coordinator": coordinator.url,
            "host": host.name,
            "state_dir": "state",
            "clickhouse": {"url": host.url, "user": "default", "config": str(host.active_config)},
            "restart": {"command": [sys.executable, str(HERE / "rig.py"), "restart", str(host.directory)]},
            "hooks": {"before_restart": [sys.executable, str(HERE / "switch_root.py"), str(host.directory)]},
        }
        if coordinator.pki:
            settings["tls"] = coordinator.pki.own(host.name) | {"ca": str(coordinator.pki.ca)}
        else:
            settings["insecure"] = True
        settings["restart"]["timeout"] = settings["hooks"]["timeout"] = "2m"
        if host.password:
            directory.mkdir(parents=True)
            password = directory / "clickhouse.password"
            password.touch(mode=0o600)
            password.write_text(host.password)
            settings["clickhouse"]["password_file"] = "clickhouse.password"
        super().__init__(directory, "rekeeper-agent", settings)

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.directory / "state"

    def folder(self, migration: str) -> Path:
        """What it has there of a migration."""
        return self.state / "migrations" / migration

    def run_as_reader(self) -> None:
        """From its next start on it runs as a user who may read all files, and change only its own."""
        for path in [self.directory, *self.directory.rglob("*")]:
            os.chown(path, _NOBODY, _NOBODY)
        self._by = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        self._by += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        # The kernel forgets it when the user changes.
        self._by += ["--pdeathsig", "KILL", "--"]

    def use_zookeeper(self, port: int, password: str = "") -> None:
        """Let it read of another ZooKeeper port than its host does; all nodes of an ensemble become that one."""
        nodes = re.compile(r"(<zookeeper>).*(<node>.*?<port>)\d+(?=</port>)", re.DOTALL)
        told = f"<password>{password}</password>" if password else ""
        self.use_configuration(lambda text: nodes.sub(rf"\g<1>{told}\g<2>{port}", text, count=1))

    def use_configuration(self, change: Callable[[str], str]) -> None:
        """Let it read the ensembles from a changed copy of its host's configuration, from its next start on."""
        copy = self.directory / "config.xml"
        copy.write_text(change(self.host.active_config.read_text()))
        self.configure(self.configuration | {"clickhouse": self.configuration["clickhouse"] | {"config": str(copy)}})


class Answer:
    """What the command line said."""

    def __init__(self, arguments: tuple, process: subprocess.CompletedProcess):
        self.arguments = arguments
        self.code, self.stdout, self.stderr = process.returncode, process.stdout, process.stderr

    @property
    def json(self):
        """Standard output as JSON."""
        return json.loads(self.stdout)

    def expect(self, *codes: int) -> "Answer":
        """Fail, showing everything, unless it ended with one of the codes."""
        if self.code not in codes:
            raise AssertionError(f"{self} where {codes} was expected")
        return self

    def __str__(self) -> str:
        command = " ".join(map(str, self.arguments))
        return f"`rekeeper {command}` ended with {self.code}\n{self.stdout[-4000:]}\n{self.stderr[-4000:]}"


class Rekeeper:
    """The command line, asking one coordinator; with TLS by the certificate of `caller`, or by none."""

    def __init__(self, coordinator: Coordinator, caller: str | None = "anna"):
        self.environment = os.environ | {"REKEEPER_COORDINATOR": coordinator.url}
        if pki := coordinator.pki:
            self.environment["REKEEPER_CA"] = str(pki.ca)
            if caller:
                self.environment |= {"REKEEPER_CERT": str(pki.cert(caller)), "REKEEPER_KEY": str(pki.key(caller))}

    def __call__(self, *arguments, timeout: float = 300) -> Answer:
        """Run a command to its end."""
        command = [binary("rekeeper"), *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        return Answer(arguments, done)

    def background(self, *arguments, output: Path) -> subprocess.Popen:
        """Start a command, its output added to a file; the caller ends it."""
        with open(output, "ab") as out:
            command = [binary("rekeeper"), *map(str, arguments)]
            return subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def shown(self, *arguments) -> int:
        """Run a command whose output goes where this program's goes, and return its exit code."""
        return subprocess.run([binary("rekeeper"), *map(str, arguments)], env=self.environment).returncode

    def status(self, name: str) -> dict:
        """The status document of one migration."""
        return self("status", name, "-o", "json").expect(DONE, PROBLEMS).json

    def events(self, name: str) -> list[dict]:
        """The events of one migration, in their order."""
        return [json.loads(line) for line in self("events", name, "-o", "json").expect(DONE).stdout.splitlines()]

    def under_way(self, name: str) -> list[dict]:
        """The intents of one migration that nothing has come of yet."""
        events = self.events(name)
        ended = {event["attempt"] for event in events if event["kind"] in ("done", "failed")}
        return [event for event in events if event["kind"] == "intent" and event["attempt"] not in ended]

    def wait_for_agents(self, *hosts: str, timeout: float = 60) -> None:
        """Wait until the agents of these hosts are connected."""

        def connected() -> bool:
            answer = self("hosts", "-o", "json")
            return answer.code == DONE and set(hosts) <= {h["host"] for h in answer.json if h["connected"]}

        wait_for(connected, lambda: f"{hosts} to be connected: {self('hosts')}", timeout)

    def wait_for_state(self, name: str, *states: str, timeout: float = 300) -> dict:
        """Wait until the migration is in one of the states, and return its status document."""

        def reached():
            answer = self("status", name, "-o", "json")
            return answer.code in (DONE, PROBLEMS) and answer.json["state"] in states and answer.json

        return wait_for(reached, lambda: f"{name} to be {states}: {self('status', name)}", timeout)
