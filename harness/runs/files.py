"""Open files of a folder that may come from someone else: regular files alone, and no link is followed.

A run folder can be a stranger's. A symbolic link in it could make this process write to another file, and a named pipe
or a device in place of a file could make it wait for ever. Both are refused before they are opened.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from harness.core.errors import RunFolderError

MOST_TEXT_BYTES = 2**28
"""Of a file that is read whole."""

_KINDS = {
    stat.S_IFLNK: "Is a symbolic link",
    stat.S_IFDIR: "Is a directory",
    stat.S_IFIFO: "Is a named pipe",
    stat.S_IFSOCK: "Is a socket",
    stat.S_IFCHR: "Is a device",
    stat.S_IFBLK: "Is a device",
}


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file and return its descriptor. Raise OSError, or RunFolderError for anything but a file."""
    verb = "read" if flags & os.O_ACCMODE == os.O_RDONLY else "written"
    with contextlib.suppress(FileNotFoundError):  # `flags` may create it
        refuse_special(path, os.lstat(path).st_mode, verb)
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        refuse_special(path, os.fstat(descriptor).st_mode, verb)
    except RunFolderError:
        os.close(descriptor)
        raise
    return descriptor


def refuse_special(path: Path, mode: int, verb: str) -> None:
    """Raise RunFolderError if a file's mode is that of something else."""
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is not None:
        raise RunFolderError(f"{path} can't be {verb}: {kind}; put a plain file in its place, or remove it")


def refuse_link(folder: Path) -> None:
    """Raise RunFolderError if a folder in a run folder is a link: what is written to it would land elsewhere."""
    if folder.is_symlink():
        raise RunFolderError(f"{folder} can't be written: Is a symbolic link; put a folder in its place, or remove it")


def read_text(path: Path) -> str:
    """Return the text of a file. Raise OSError, UnicodeDecodeError or RunFolderError."""
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        content = file.read(MOST_TEXT_BYTES + 1)
    if len(content) > MOST_TEXT_BYTES:
        raise RunFolderError(f"{path} can't be read: it has more than {MOST_TEXT_BYTES >> 20} MB")
    return content.decode("utf-8")


class SummedFile(io.FileIO):
    """A regular file open for reading, with the CRC-32 of the bytes read so far."""

    crc = 0

    def readinto(self, buffer: Any) -> int | None:
        n_read = super().readinto(buffer)
        self.crc = zlib.crc32(memoryview(buffer)[:n_read], self.crc)
        return n_read
