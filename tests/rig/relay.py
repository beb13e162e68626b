"""Whoever has the key of one agent: a program between it and the coordinator that tells something else than it did."""

import signal
from pathlib import Path

from processes import end, free_port, spawn_bound
from programs import Coordinator, binary


class Relay:
    """`coordinator/examples/relay.rs`: takes agents that speak to it for the coordinator's, and forges what they say."""

    def __init__(self, directory: Path, coordinator: Coordinator):
        self.port, self.coordinator = free_port(), coordinator
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "relay.log"
        self._process = None

    def start(self, forgery: str) -> None:
        """From now on it forges like this."""
        self.stop()
        command = [binary("examples/relay"), self.port, self.coordinator.url, forgery]
        self._process = spawn_bound(command, self.log)

    def stop(self) -> None:
        """End it; agents that speak to it find nobody."""
        if self._process:
            end(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def said(self) -> str:
        """What it has done."""
        return self.log.read_text() if self.log.exists() else ""
