"""Keeps a step from ending, so that a test can strike while it is under way.

The fault switch keeps a statement back, a proxy a request to ZooKeeper, a file a command of the agent.
"""

import sys
from dataclasses import dataclass
from typing import Protocol

from programs import HERE
from rig import Cluster
from zookeeper_proxy import ZooKeeperProxy

# The requests that are kept back come after the DETACH of this table.
NAME = "`?shop`?\\.`?held`?"
PATH = "/tables/01/shop/held"
# Waits while the file $0 is there; $0.arrived tells that it does.
WAIT = 'if [ -e "$0" ]; then touch "$0.arrived"; fi; while [ -e "$0" ]; do sleep 0.05; done; '


class Rig(Protocol):
    """A cluster of which Rekeeper's agents reach ZooKeeper through a proxy, and whose commands wait."""

    cluster: Cluster
    proxy: ZooKeeperProxy


def let_commands_wait(cluster: Cluster) -> None:
    """From now on the hook and the restart command of each agent wait as long as a [`Command`] says."""
    for agent in cluster.agents.values():
        restart = agent.configuration["restart"]
        hook, before, after = (str(agent.directory / name) for name in ("hook", "before", "after"))
        rig = f'"{sys.executable}" "{HERE / "rig.py"}" restart "{agent.host.directory}"'
        script = f'{WAIT} {rig} || exit; {WAIT.replace("$0", "$1")}'
        agent.configure(
            agent.configuration
            | {"hooks": {"before_restart": ["sh", "-c", WAIT, hook], "timeout": "2m"}}
            | {"restart": restart | {"command": ["sh", "-c", script, before, after]}}
        )
        agent.restart()
    cluster.rekeeper.wait_for_agents(*cluster.agents)


@dataclass(frozen=True)
class Statement:
    """Keeps a statement back on a host; `after` its execution, so that only its answer is missing."""

    pattern: str
    host: str = "ch-01-1"
    after: bool = False

    def arm(self, rig: Rig) -> None:
        host = rig.cluster.host(self.host)
        # The query log is that of all cases.
        object.__setattr__(self, "_before", len(host.query_log("held")))
        host.set_faults({"pattern": self.pattern, "wait": True, "after": self.after})

    def held(self, rig: Rig) -> str | None:
        records = rig.cluster.host(self.host).query_log("held")[self._before :]
        return f"{'after' if self.after else 'before'} {records[0]['sql'][:60]}" if records else None

    def let_go(self, rig: Rig) -> None:
        rig.cluster.host(self.host).clear_faults()


@dataclass(frozen=True)
class Request:
    """Keeps a request to ZooKeeper back, one that comes after DETACH: the checks at `start` read the nodes too."""

    kind: str
    pattern: str
    skip: int = 0

    def arm(self, rig: Rig) -> None:
        object.__setattr__(self, "_detach", Statement(f"^DETACH TABLE {NAME}"))
        self._detach.arm(rig)
        rig.proxy.let_go()

    def held(self, rig: Rig) -> str | None:
        if not rig.proxy.is_armed:
            if not self._detach.held(rig):
                return None
            rig.proxy.hold(self.kind, self.pattern, self.skip)
            self._detach.let_go(rig)
        return rig.proxy.held

    def let_go(self, rig: Rig) -> None:
        rig.proxy.let_go()


@dataclass(frozen=True)
class Command:
    """Keeps a command of the agent waiting: `hook`, or the restart command `before` or `after` it has restarted."""

    where: str
    host: str = "ch-01-1"

    def arm(self, rig: Rig) -> None:
        file = rig.cluster.agents[self.host].directory / self.where
        file.with_name(f"{self.where}.arrived").unlink(missing_ok=True)
        file.touch()

    def held(self, rig: Rig) -> str | None:
        arrived = rig.cluster.agents[self.host].directory / f"{self.where}.arrived"
        return f"the command, {self.where}" if arrived.exists() else None

    def let_go(self, rig: Rig) -> None:
        (rig.cluster.agents[self.host].directory / self.where).unlink()
