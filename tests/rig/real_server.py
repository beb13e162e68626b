"""Real `clickhouse server` processes out of PyPI: the wheels of chdb up to 3.7 carry the whole binary as a library, and
export its main function.

    real_server.py FOLDER server ARGS...    is the server of that folder
"""

import ctypes
import sys
from pathlib import Path

import wheels

VERSIONS = ("24.8", "25.8")


def command(engine: str) -> list[str]:
    """What is started as `clickhouse`: one of `VERSIONS`, or the path of a binary."""
    if engine in VERSIONS:
        return [sys.executable, str(Path(__file__).resolve()), str(wheels.folder_of(engine))]
    return [engine]


def run(folder: Path, arguments: list[str]) -> int:
    """Be the server: its main function, found by its name in the library."""
    (library,) = folder.glob("chdb/_chdb*.so")
    main_of_server = ctypes.CDLL(str(library))._Z25mainEntryClickHouseServeriPPc
    argv = [b"clickhouse-server", *(argument.encode() for argument in arguments)]
    return main_of_server(len(argv), (ctypes.c_char_p * (len(argv) + 1))(*argv, None))


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[3:]))
