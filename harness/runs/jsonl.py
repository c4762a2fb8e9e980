"""Files that survive a kill: append-only JSON lines, and small files that are replaced whole.

A line counts only with its newline, so a torn last line (a kill, a full disk) is dropped when the file is opened again,
and nothing before it is touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from harness.core.errors import DiskError, RunFolderError

READ_BYTES = 2**18
"""Bytes per system call: three times as fast as Python's own buffer, line by line."""


# --- reading ----------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every whole line as a row, oldest first; an absent file is empty."""
    for number, line in enumerate(read_raw_lines(path), 1):
        try:
            row = parse_line(line)
        except ValueError:
            raise corrupt_file_error(path, number, "is not JSON") from None
        if not isinstance(row, dict):
            raise corrupt_file_error(path, number, "is not a JSON object")
        yield row


def read_raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the same lines as bytes, not decoded."""
    try:
        opened = path.open("rb", buffering=READ_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{path} can't be read: {error.strerror}") from None
    with opened as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def read_line_at(path: Path, offset: int) -> dict[str, Any]:
    """Read the row whose line begins at this byte."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            row: dict[str, Any] = json.loads(file.readline())
            return row
    except (OSError, ValueError) as error:
        raise altered_in_use(path, offset, error) from None


def parse_line(line: bytes) -> Any:
    """Decode a line with msgspec, or with json if only that accepts it."""
    import msgspec  # late: many commands read no such file

    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:  # half a surrogate pair, or an infinity
        return json.loads(line)


def corrupt_file_error(path: Path, number: int, what: str) -> RunFolderError:
    return RunFolderError(f"{path}, line {number} {what}: the file was altered; restore it, or move the folder away")


def altered_in_use(path: Path, offset: int, error: Exception) -> RunFolderError:
    return RunFolderError(f"{path} was altered while it was in use, at byte {offset}: {error}")


# --- writing ----------------------------------------------------------------------------------------------------


def encode_line(row: Mapping[str, Any]) -> bytes:
    return _encode(row).encode("utf-8", "surrogatepass") + b"\n"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class JsonlFile:
    """An append-only file of JSON lines. Each `append` is one write, whole or dropped at the next opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._end = 0

    def append(self, row: Mapping[str, Any]) -> int:
        """Write a line; return the byte at which it begins."""
        line = encode_line(row)
        try:
            if self._file is None:
                self._file = self._open()
            offset, rest = self._end, line
            while rest:  # one system call; a full disk may take a part, and raises at the next call
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.close()  # the next append opens the file again and cuts off the part
            raise disk_error(self.path, error) from error
        self._end += len(line)
        return offset

    def _open(self) -> IO[bytes]:
        self.path.touch()
        with self.path.open("rb+") as file:
            self._end = _end_of_last_line(file)
            file.truncate(self._end)
        return self.path.open("ab", buffering=0)

    def sync(self) -> None:
        """Flush to the disk, so that the lines survive a power cut."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the whole file in one step."""
        self.close()
        write_whole(self.path, "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _end_of_last_line(file: IO[bytes]) -> int:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never a part of it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # raise the first error
            temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path: Path, error: Exception) -> DiskError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror is not None else str(error)
    is_denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    remedy = "make it writable" if is_denied else "free some space"
    return DiskError(
        f"could not write {path}: {reason}; nothing before it is lost: "
        f"{remedy} and run the same command again to resume"
    )
