"""Debian's clickhouse-server 18.16, which is too old to be migrated: a real server that has to be refused.

Its packages are unpacked into the cache and run from there: nothing is installed, no service is made.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from processes import end, free_port, spawn_bound, wait_for

CACHE = Path(os.environ.get("REKEEPER_CACHE") or Path.home() / ".cache" / "rekeeper")
PACKAGE = "clickhouse-server"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


def unpacked() -> Path:
    """The folder with the server and the libraries that this machine lacks."""
    CACHE.mkdir(parents=True, exist_ok=True)
    there = CACHE / "clickhouse-18.16"
    with open(CACHE / "clickhouse-18.16.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not there.exists():
            # A folder that is half made never gets the name that is looked for.
            building = Path(tempfile.mkdtemp(dir=CACHE))
            try:
                os.chmod(building, 0o755)
                _unpack(building)
                building.rename(there)
            except BaseException:
                shutil.rmtree(building)
                raise
    return there


def _unpack(into: Path) -> None:
    simulated = ["apt-get", "install", "--simulate", "--no-install-recommends", PACKAGE]
    answer = subprocess.run(simulated, capture_output=True, text=True)
    if answer.returncode:
        # A fresh machine has no package lists.
        update = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "update"]
        subprocess.run(update if os.getuid() == 0 else ["sudo", *update], capture_output=True, check=True)
        answer = subprocess.run(simulated, capture_output=True, text=True, check=True)
    names = re.findall(r"^Inst (\S+)", answer.stdout, re.MULTILINE)
    subprocess.run(["apt-get", "download", *names], cwd=into, capture_output=True, check=True)
    for archive in into.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, into], check=True)
        archive.unlink()


class OldServer:
    """One server with a directory and ports of its own; a context manager."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        directory.mkdir(parents=True)
        self.config = directory / "config.xml"
        self.config.write_text(f"""<yandex>
  <logger><level>information</level><log>{directory}/server.log</log></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{self.port}</http_port>
  <tcp_port>{free_port()}</tcp_port>
  <path>{directory}/data/</path>
  <tmp_path>{directory}/tmp/</tmp_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>67108864</mark_cache_size>
</yandex>
""")
        (directory / "users.xml").write_text("""<yandex>
  <profiles><default/></profiles><quotas><default/></quotas>
  <users><default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>
    <quota>default</quota></default></users>
</yandex>
""")
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "OldServer":
        root = unpacked()
        libraries = ":".join(str(root / folder) for folder in LIBRARIES)
        command = ["env", f"LD_LIBRARY_PATH={libraries}", root / "usr/sbin/clickhouse-server"]
        self._process = spawn_bound([*command, f"--config-file={self.config}"], self.directory / "server.out")
        try:
            wait_for(self._answers, lambda: f"ClickHouse 18.16, see {self.directory}", timeout=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        end(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended: {(self.directory / 'server.out').read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False
