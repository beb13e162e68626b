"""A folder on a small disk of its own, which can be filled up."""

import errno
import os
import subprocess
from pathlib import Path

FILLING = "filling"
_PIECE = 4096


class SmallDisk:
    """A tmpfs over a folder, until `close`. What was in the folder is on it."""

    def __init__(self, folder: Path, size: int):
        self.folder = folder
        before = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        subprocess.run(mount, check=True, capture_output=True)
        for name, content in before.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def fill(self, but: int = 0) -> None:
        """Up to the last block, or so many bytes less."""
        with (self.folder / FILLING).open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(os.urandom(_PIECE))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            file.truncate(max(0, file.tell() - but))

    def make_room(self) -> None:
        """What filled it is gone."""
        (self.folder / FILLING).unlink(missing_ok=True)

    def take_back(self) -> None:
        """Close it, and have what is on it where it was before, but for what filled it."""
        self.make_room()
        there = {file.name: file.read_bytes() for file in self.folder.iterdir() if file.is_file()}
        self.close()
        for name, content in there.items():
            (self.folder / name).write_bytes(content)

    def close(self) -> None:
        """Once nobody has a file open on it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True, capture_output=True)


def may_mount(folder: Path) -> bool:
    """Whether this user may mount at all."""
    folder.mkdir()
    try:
        SmallDisk(folder, 65536).close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
