"""What all parts of the test rig share about processes: starting, waiting, free ports, dying with their owner."""

import concurrent.futures
import fcntl
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

_POLL_SECONDS = 0.05
_OWNER_POLL_SECONDS = 0.5

# The same for all rigs of this machine, whatever their TMPDIR is.
_PORT_LOCKS = Path("/tmp/rekeeper-rig-ports")

# Processes that must die with this one are bound to the thread that starts them, so that has to be one that stays.
_spawner = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

# Held as long as this process lives: each keeps one port for it.
_reserved_ports: list = []


class Timeout(AssertionError):
    """What was waited for did not come."""


def wait_for(condition, what: str, timeout: float = 30.0):
    """Wait until `condition()` is true and return what it gave; `what` is text or a function that gives it."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise Timeout(f"waited {timeout:g} s in vain for {what() if callable(what) else what}")
        time.sleep(_POLL_SECONDS)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The program's name, in parentheses before the state, may itself contain parentheses.
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def end(pid: int, how: signal.Signals, timeout: float = 60.0) -> None:
    """Send a signal and wait until the process is gone; one that does not go in time is killed, which is an error."""
    try:
        os.kill(pid, how)
        wait_for(lambda: not alive(pid), f"process {pid} to end after {how.name}", timeout)
    except ProcessLookupError:
        pass
    except Timeout:
        os.kill(pid, signal.SIGKILL)
        raise


def spawn_bound(command: list, log: Path) -> subprocess.Popen:
    """Start a program that the kernel kills when this process ends, however it ends; its output is added to `log`."""
    with open(log, "ab") as output:
        bound = ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)]
        start = _spawner.submit(
            subprocess.Popen, bound, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        return start.result()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody else takes while this process lives.

    It lies below the range that the kernel hands to outgoing connections, so that a server finds it free again after
    a restart, and is reserved by a lock that all rigs of this machine respect.
    """
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    _PORT_LOCKS.mkdir(exist_ok=True)
    for port in random.sample(range(first_of_kernel // 2, first_of_kernel), 500):
        lock = open(_PORT_LOCKS / str(port), "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _reserved_ports.append(lock)
        return port
    raise RuntimeError("no free port found")


def when_owner_is_gone(pid: int, action) -> None:
    """Call `action` in a thread of its own once the process `pid` has ended."""

    def watch():
        while alive(pid):
            time.sleep(_OWNER_POLL_SECONDS)
        action()

    threading.Thread(target=watch, daemon=True, name="owner").start()


def peak_memory(pid: int) -> int:
    """The most memory the process has had resident, in bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
