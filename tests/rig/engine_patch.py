"""Makes ReplicatedMergeTree usable in the embedded ClickHouse engine of chdb-core.

A server knows the address at which its peers fetch parts from it, and the credentials for fetching from them; the
embedded engine is never told either. Without the first a replicated table stays read-only ("Parameter
'interserver_http(s)_port' required for replication is not specified"), without the second a fetch reads through a null
pointer. Three getters of the loaded library are therefore overwritten, in this process's memory only, with code that
returns a constant. Each is recognised by its first bytes, which have to occur exactly once, so that another build of
the engine is refused and not damaged. The bytes are those of chdb-core 26.9.0 on Linux x86-64. Where they are is noted
beside the library: to look for them takes a second of CPU, of 1.6 that a start of the engine took.
"""

import ctypes
import json
import mmap
import os
import re
import struct
from pathlib import Path

LIBRARY = "_chdb.abi3.so"
NOTE = "rekeeper-places.json"

# Context::getInterserverIOAddress, getInterserverScheme and getInterserverCredentials.
ADDRESS = bytes.fromhex(
    "4156534883ec484c8b36490fbe8e670100004885c9498b96580100004889c8480f48c24885c07454410fb786680100006685c0744784c9"
)
SCHEME = bytes.fromhex("488b0680b88701000000781a480570010000488b481048894f10c5f81000c5f811074889f8c3")
CREDENTIALS = bytes.fromhex("41574156534c8b3f498d9f880100004889dfe8695bef0b4d8bb7b00100004d8bbfb80100004d85ff74")

# Two empty strings and what surrounds them in the credentials object; kept alive with the module.
_empty_credentials = ctypes.create_string_buffer(256)


def announce(host: str, port: int) -> None:
    """Let the engine tell its peers that parts are fetched from `host`:`port`, without a password.

    To be called once, before the first statement.
    """
    import chdb  # noqa: F401  (loads the library)

    library = _Code(LIBRARY)
    store_port = b"\x66\xc7\x47\x18" + struct.pack("<H", port)  # mov word [rdi + 24], port
    address, scheme, credentials = library.places([ADDRESS, SCHEME, CREDENTIALS])
    library.overwrite(address, _store_string(host) + store_port + _RETURN_RESULT)
    library.overwrite(scheme, _store_string("http") + _RETURN_RESULT)
    library.overwrite(credentials, _return_pointer(ctypes.addressof(_empty_credentials)))


# A returned object is built where rdi points to, and its address goes back in rax.
_RETURN_RESULT = b"\x48\x89\xf8\xc3"  # mov rax, rdi; ret


def _store_string(text: str) -> bytes:
    """Code that makes the libc++ string at rdi hold `text`; short strings lie inside the object, the length last."""
    raw = text.encode()
    if len(raw) > 22:
        raise ValueError(f"{text!r} is longer than the 22 bytes of a short string")
    code = b""
    for offset, word in enumerate(struct.unpack("<3Q", raw.ljust(23, b"\0") + bytes([len(raw)]))):
        code += b"\x48\xb8" + struct.pack("<Q", word)  # mov rax, word
        code += b"\x48\x89\x47" + bytes([8 * offset])  # mov [rdi + 8 * offset], rax
    return code


def _return_pointer(address: int) -> bytes:
    """Code that returns a shared pointer to `address` that owns nothing (rdx is its missing control block)."""
    return b"\x48\xb8" + struct.pack("<Q", address) + b"\x31\xd2\xc3"  # mov rax, address; xor edx, edx; ret


class _Code:
    """The executable bytes of one loaded library."""

    def __init__(self, library: str):
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, permissions, *_, file = line.split()
            if file.endswith(library) and permissions == "r-xp":
                start, end = (int(address, 16) for address in addresses.split("-"))
                # In place: a copy would double the memory that a host needs at its start.
                self.start, self.content = start, (ctypes.c_char * (end - start)).from_address(start)
                self.file = Path(file)
                return
        raise RuntimeError(f"{library} is not loaded")

    def places(self, patterns: list[bytes]) -> list[int]:
        """Where each of the patterns is: as it was noted of this very library, if they are there, or by looking."""
        note, stat = self.file.with_name(NOTE), self.file.stat()
        of = [stat.st_size, stat.st_mtime_ns]
        if note.exists():
            noted = json.loads(note.read_text())
            found = dict(zip(map(bytes.fromhex, noted["patterns"]), noted["places"], strict=True))
            if noted["of"] == of and all(self._is_at(found.get(pattern), pattern) for pattern in patterns):
                return [found[pattern] for pattern in patterns]
        places = [self._place(pattern) for pattern in patterns]
        new = note.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({"of": of, "patterns": [pattern.hex() for pattern in patterns], "places": places}))
        new.replace(note)
        return places

    def _is_at(self, place: int | None, pattern: bytes) -> bool:
        return place is not None and self.content[place : place + len(pattern)] == pattern

    def _place(self, pattern: bytes) -> int:
        places = [match.start() for match in re.finditer(re.escape(pattern), self.content)]
        if len(places) != 1:
            raise RuntimeError(f"not the engine of chdb-core 26.9.0: a function to patch was found {len(places)} times")
        return places[0]

    def overwrite(self, at: int, code: bytes) -> None:
        """Put `code` at a place."""
        first = (self.start + at) // mmap.PAGESIZE * mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        # Two pages, because the code may cross from one into the next.
        if libc.mprotect(first, 2 * mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        ctypes.memmove(self.start + at, code, len(code))
