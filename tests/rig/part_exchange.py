"""Sends a host's parts to the replicas that fetch them: the sending side of ClickHouse's DataPartsExchange, version 3.

The embedded engine can fetch parts and cannot send them, so this serves the files of the part from the disk. Compact
and Wide parts, no projections.
"""

import struct
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from clickhouse_cityhash.cityhash import CityHash128

# The constant that CityHash128 mixes into the seed that it takes from the first 16 bytes.
_K3 = 0xC949D7C7509E6557
_HASHED_BLOCK = 2048
_NO_SUCH_DATA_PART = 232


def handler(engine):
    """The class of request handlers that sends parts of `engine`'s tables."""

    class PartHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            options = dict(parse_qsl(urlsplit(self.path).query))
            replica_path = options.get("endpoint", "").removeprefix("DataPartsExchange:")
            try:
                status, headers = 200, {"Set-Cookie": "server_protocol_version=3"}
                body = _part_stream(*_locate(engine, replica_path, options.get("part", "")))
            # Whatever went wrong, also a file that a merge has just removed, the peer asks again or elsewhere.
            except Exception as problem:
                status, headers = 500, {"X-ClickHouse-Exception-Code": str(_NO_SUCH_DATA_PART)}
                body = f"Code: {_NO_SUCH_DATA_PART}. DB::Exception: {problem}. (NO_SUCH_DATA_PART)\n".encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

    return PartHandler


def _locate(engine, replica_path: str, part: str) -> tuple[Path, str]:
    # Two statements, because a join with system.parts would list the parts of all tables for each fetch. Outdated
    # parts are not sent: a server may do it, but the peer then fetches the part that covers it.
    tables = engine.rows(
        "SELECT database, table FROM system.replicas WHERE replica_path = {path:String}", {"path": replica_path}
    )
    for database, table in tables:
        parts = engine.rows(
            "SELECT path, part_type FROM system.parts"
            " WHERE database = {database:String} AND table = {table:String} AND name = {part:String} AND active",
            {"database": database, "table": table, "part": part},
        )
        for path, part_type in parts:
            return Path(path), part_type
    raise LookupError(f"no active part {part} of {replica_path}")


def _part_stream(directory: Path, part_type: str) -> bytes:
    files = [(file.name.encode(), file.read_bytes()) for file in sorted(directory.iterdir()) if file.is_file()]
    stream = [
        struct.pack("<Q", sum(len(content) for _, content in files)),
        _string(b"ttl format version: 1\n{}"),
        _string(part_type.encode()),
        struct.pack("<Q", len(files)),
    ]
    for name, content in files:
        stream += [_string(name), struct.pack("<Q", len(content)), content, _checksum(content)]
    return b"".join(stream)


def _string(value: bytes) -> bytes:
    """`value` with its length before it, 7 bits to a byte."""
    length, prefix = len(value), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + value


def _checksum(content: bytes) -> bytes:
    """CityHash128 chained over blocks, each seeded with the hash before it.

    The package's CityHash128WithSeed ignores its seed. CityHash128 makes a seed of its first 16 bytes, so the wanted
    one goes there.
    """
    low = high = 0
    for start in range(0, len(content), _HASHED_BLOCK):
        seed = struct.pack("<QQ", low ^ _K3, high)
        result = CityHash128(seed + content[start : start + _HASHED_BLOCK])
        low, high = result >> 64, result & 0xFFFF_FFFF_FFFF_FFFF
    return struct.pack("<QQ", low, high)
