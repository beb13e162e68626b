"""strace attached to a process that runs: what it did, in the order in which it did it; or its end at a call."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from processes import alive, end, spawn_bound, wait_for

READS = {"read", "readv", "recvfrom", "recvmsg"}
WRITES = {"write", "writev", "sendto", "sendmsg", "pwrite64", "pwritev"}
SYNCS = {"fsync", "fdatasync"}
# How often strace attaches to a process before its threads are given up.
TRIES = 5
_LONGEST = 1 << 20
_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")
_END = re.compile(r"\)?\s+= (-?\d+|\?).*$")
_FILE = re.compile(r"^\d+<([^>]*?(?:->[^>]*)?)>")
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """One system call. Between two calls of which one caused the other, the numbers tell the order."""

    name: str
    file: str
    data: bytes
    result: int
    entered: int
    left: int


class Strace:
    """Follows all threads of a process from now on; `inject` as strace's option of that name."""

    def __init__(self, pid: int, output: Path, inject: str = ""):
        self._output = output
        command = ["strace", "-f", "-p", pid, "-o", output, "-yy", "-xx", "-s", _LONGEST]
        command += ["-e", "trace=" + ",".join(sorted(READS | WRITES | SYNCS))]
        if inject:
            command += ["-e", f"inject={inject}"]
        log = output.with_suffix(".strace.log")
        self._process = spawn_bound(command, log)
        wait_for(lambda: "attached" in log.read_text(), lambda: f"strace: {log.read_text()}")

    def stop(self) -> list[Call]:
        """Follow no longer; the calls in the order in which they were left."""
        end(self._process.pid, signal.SIGTERM)
        self._process.wait()
        return list(_calls(self._output.read_text(errors="replace").splitlines()))


def _is_traced(thread: Path) -> bool:
    try:
        status = (thread / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # It has ended.
        return True
    return "TracerPid:\t0\n" not in status


class EndAtRename:
    """SIGKILL of a process when it renames `path`, written as in its call: before that is done, or when it is `done`
    and nothing has come after it. `directory` takes the output, one process after another."""

    def __init__(self, pid: int, path: str, directory: Path, done: bool = False):
        self._pid, self._done = pid, done
        self._output = directory / f"{pid}.renames"
        log = self._output.with_suffix(".strace.log")
        command = ["strace", "-f", "-p", pid, "-o", self._output, "-P", path, "-e", "trace=rename,renameat2"]
        # A process that is stopped does no more than the call in which it was told.
        command += ["-e", f"inject=rename,renameat2:signal={'STOP' if done else 'KILL'}"]
        self._process = self._attached(command, log)

    def _attached(self, command: list, log: Path):
        """A thread that is made while strace attaches may be missed, and what it does would not be seen."""
        for _ in range(TRIES):
            log.unlink(missing_ok=True)
            process = spawn_bound(command, log)
            wait_for(lambda: " attached with " in log.read_text(), lambda: f"strace: {log.read_text()}")
            if all(_is_traced(thread) for thread in Path(f"/proc/{self._pid}/task").iterdir()):
                return process
            end(process.pid, signal.SIGTERM)
            process.wait()
        raise RuntimeError(f"strace missed a thread of {self._pid} {TRIES} times")

    def wait(self, unless: Callable[[], bool] = lambda: False, timeout: float = 60) -> None:
        """Until the process is gone, `unless` it will not come to the rename any more."""
        if self._done:
            wait_for(lambda: "= 0" in self._output.read_text(), "the rename", timeout)
            os.kill(self._pid, signal.SIGKILL)
        wait_for(lambda: not alive(self._pid) or unless(), "the rename, and the end of the process", timeout)
        if not alive(self._pid):
            self._process.wait()

    def close(self) -> None:
        """Whatever has come of it."""
        self._process.kill()
        self._process.wait()


def _calls(lines: list[str]) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        found = _LINE.match(line)
        if not found:
            continue
        thread, resumed, name, rest = found.groups()
        if resumed:
            entered, before = begun.pop(thread, (number, ""))
            name, rest = resumed, before + rest
        else:
            entered = number
        if rest.endswith("<unfinished ...>"):
            begun[thread] = (entered, rest.removesuffix("<unfinished ...>"))
            continue
        ended, file = _END.search(rest), _FILE.match(rest)
        if ended and file and ended[1] != "?":
            data = b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _BYTES.findall(rest))
            path = bytes.fromhex(file[1].replace("\\x", "")).decode() if file[1].startswith("\\x") else file[1]
            yield Call(name, path, data, int(ended[1]), entered, number)
