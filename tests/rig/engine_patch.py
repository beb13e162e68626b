"""Makes ReplicatedMergeTree usable in the embedded ClickHouse engine of chdb-core.

A server knows the address at which its peers fetch parts from it, and the credentials for fetching from them; the
embedded engine is never told either. Without the first a replicated table stays read-only ("Parameter
'interserver_http(s)_port' required for replication is not specified"), without the second a fetch reads through a null
pointer. Three getters of the loaded library are therefore overwritten, in this process's memory only, with code that
returns a constant. Each is recognised by its code, in which the offsets of what it gets are open: they differ by build,
and the distances between them do not (chdb-core 26.1 to 26.9 on Linux x86-64). It has to occur exactly once, so that an
engine that is not known is refused and not damaged. Where they are is noted beside the library: to look for them takes a
second of CPU, of 1.6 that a start of the engine took.
"""

import ctypes
import json
import mmap
import os
import re
import struct
from pathlib import Path

LIBRARY = "_chdb.abi3.so"
NOTE = "rekeeper-getters.json"


def _shape(text: str, **offsets: int) -> bytes:
    """A regular expression: bytes in hexadecimal, `?` for any one, `????` for any four, a name for an offset."""
    words = (
        re.escape(struct.pack("<I", offsets[word])) if word in offsets
        else b"." * len(word) if word.startswith("?")
        else re.escape(bytes.fromhex(word))
        for word in text.split()
    )
    return b"".join(words)


# Context::getInterserverIOAddress, and where in it the offset of the address's last byte is.
ADDRESS = _shape(
    "4156534883ec48 4c8b36 490fbe8e ???? 4885c9 498b96 ???? 4889c8 480f48c2 4885c074 ? 410fb786 ????"
    " 6685c074 ? 84c9"
)
_LAST_BYTE = 14


def _scheme(address: int) -> bytes:
    """Context::getInterserverScheme of an engine with the address at that offset; the copy is by AVX or by SSE."""
    before = _shape("488b06 80b8 last 00 78 ? 4805 first 488b4810 48894f10", last=address + 0x37, first=address + 0x20)
    return before + b"(?:" + _shape("c5f81000 c5f81107") + b"|" + _shape("0f1000 0f1107") + b")" + _shape("4889f8c3")


def _credentials(address: int) -> bytes:
    """Context::getInterserverCredentials of an engine with the address at that offset."""
    return _shape(
        "41574156534c8b3f 498d9f lock 4889dfe8 ???? 4d8bb7 pointer 4d8bbf counted 4d85ff74",
        lock=address + 0x38, pointer=address + 0x60, counted=address + 0x68,
    )


# Two empty strings and what surrounds them in the credentials object; kept alive with the module.
_empty_credentials = ctypes.create_string_buffer(256)


def announce(host: str, port: int) -> None:
    """Let the engine tell its peers that parts are fetched from `host`:`port`, without a password.

    To be called once, before the first statement.
    """
    import chdb  # noqa: F401  (loads the library)

    library = _Code(LIBRARY)
    store_port = b"\x66\xc7\x47\x18" + struct.pack("<H", port)  # mov word [rdi + 24], port
    address = library.place(ADDRESS)
    (last_byte,) = struct.unpack("<I", library.content[address + _LAST_BYTE : address + _LAST_BYTE + 4])
    scheme, credentials = (library.place(pattern(last_byte - 0x17)) for pattern in (_scheme, _credentials))
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

    def place(self, pattern: bytes) -> int:
        """Where that code is: as it was noted of this very library, if it is there, or by looking."""
        note, stat, code = self.file.with_name(NOTE), self.file.stat(), re.compile(pattern, re.DOTALL)
        noted = json.loads(note.read_text()) if note.exists() else {}
        if noted.get("of") != [stat.st_size, stat.st_mtime_ns]:
            noted = {"of": [stat.st_size, stat.st_mtime_ns], "places": {}}
        at = noted["places"].get(pattern.hex())
        if at is not None and code.match(self.content, at):
            return at
        found = [match.start() for match in code.finditer(self.content)]
        if len(found) != 1:
            raise RuntimeError(f"an engine that is not known: a function to patch was found {len(found)} times")
        noted["places"][pattern.hex()] = found[0]
        new = note.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(noted))
        new.replace(note)
        return found[0]

    def overwrite(self, at: int, code: bytes) -> None:
        """Put `code` at a place."""
        first = (self.start + at) // mmap.PAGESIZE * mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        # Two pages, because the code may cross from one into the next.
        if libc.mprotect(first, 2 * mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        ctypes.memmove(self.start + at, code, len(code))
