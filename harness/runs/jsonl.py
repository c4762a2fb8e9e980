"""Files that survive a kill: append-only JSON lines, and small files that are replaced whole.

A line counts only with its newline, so a torn last line (a kill, a full disk) is dropped when the file is opened again,
and nothing before it is touched. Each line has a checksum, which reading it checks.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from harness.core.errors import DiskError, RunFolderError
from harness.runs.checksums import FIELD, MARK, is_altered, sealed
from harness.runs.files import SummedFile, open_regular

READ_BYTES = 2**18
"""Bytes per system call: three times as fast as Python's own buffer, line by line."""
ALTERED = "does not fit its checksum"


# --- reading ----------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every whole line as a row, oldest first; an absent file is empty."""
    for number, line in enumerate(read_raw_lines(path), 1):
        if is_altered(line):
            raise corrupt_file_error(path, number, ALTERED)
        try:
            row = parse_line(line)
        except ValueError:
            raise corrupt_file_error(path, number, "is not JSON") from None
        except RecursionError:
            raise corrupt_file_error(path, number, "is nested too deeply") from None
        if not isinstance(row, dict):
            raise corrupt_file_error(path, number, "is not a JSON object")
        row.pop(FIELD, None)
        yield row


def read_raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the same lines as bytes, not decoded. Checksums are checked for the whole file at its end."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{path} can't be read: {error.strerror}") from None
    raw = SummedFile(descriptor)
    with io.BufferedReader(raw, READ_BYTES) as file:
        yield from itertools.takewhile(_is_whole, file)
    if raw.crc:  # an altered line, a torn one, or one of an earlier version
        refuse_altered_line(path)


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\n")


def refuse_altered_line(path: Path) -> None:
    """Raise for the first line whose checksum does not fit; lines of an earlier version come first and have none."""
    with open(open_regular(path, os.O_RDONLY), "rb", buffering=READ_BYTES) as file:
        end = _end_of_last_line(file)
        if _crc(file, _start_of_sealed(file), end) == 0:
            return
        file.seek(0)
        for number, line in enumerate(itertools.takewhile(_is_whole, file), 1):
            if is_altered(line):
                raise corrupt_file_error(path, number, ALTERED)


def _start_of_sealed(file: IO[bytes]) -> int:
    """Return the byte at which the first line with a checksum begins, or the size of the file."""
    start = offset = file.seek(0)
    kept = b""
    while block := file.read(READ_BYTES):
        text = kept + block
        place = text.find(MARK)
        newline = text.rfind(b"\n", 0, place if place >= 0 else len(text))
        start = offset - len(kept) + newline + 1 if newline >= 0 else start
        if place >= 0:
            return start
        offset, kept = offset + len(block), block[-len(MARK) :]
    return offset


def _crc(file: IO[bytes], start: int, end: int) -> int:
    crc, left = 0, end - file.seek(start)
    while left > 0 and (block := file.read(min(READ_BYTES, left))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


def read_line_at(path: Path, offset: int) -> dict[str, Any]:
    """Read the row whose line begins at this byte."""
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            file.seek(offset)
            line = file.readline()
        row: dict[str, Any] = json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise altered_in_use(path, offset, error) from None
    if is_altered(line):
        raise altered_in_use(path, offset, "its checksum does not fit")
    row.pop(FIELD, None)
    return row


def parse_line(line: bytes) -> Any:
    """Decode a line with msgspec, or with json if only that accepts it."""
    import msgspec  # late: many commands read no such file

    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:  # half a surrogate pair, or an infinity
        return json.loads(line)


def corrupt_file_error(path: Path, number: int, what: str) -> RunFolderError:
    return RunFolderError(f"{path}, line {number} {what}: the file was altered; restore it, or move the folder away")


def altered_in_use(path: Path, offset: int, error: object) -> RunFolderError:
    return RunFolderError(f"{path} was altered while it was in use, at byte {offset}: {error}")


# --- writing ----------------------------------------------------------------------------------------------------


def encode_line(row: Mapping[str, Any]) -> bytes:
    """Return the line of a row with its checksum: valid UTF-8, in which half a surrogate pair is an escape."""
    try:
        return sealed(_encode(row).encode("utf-8"))
    except UnicodeEncodeError:
        return sealed(json.dumps(row, separators=(",", ":")).encode("ascii"))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class JsonlFile:
    """An append-only file of JSON lines. Each `append` is one write, whole or dropped at the next opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._end = 0

    def append(self, row: Mapping[str, Any]) -> int:
        """Write a line; return the byte at which it begins."""
        return self.append_encoded(encode_line(row))

    def append_encoded(self, line: bytes) -> int:
        """Write a line of `encode_line`."""
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
        descriptor = open_regular(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        file = io.FileIO(descriptor, "r+")
        self._end = _end_of_last_line(file)
        file.truncate(self._end)
        return file

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
        write_whole(self.path, b"".join(map(encode_line, rows)).decode("utf-8"))

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


def size_of_lines(path: Path) -> int:
    """Return the bytes of the whole lines of a file."""
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        return _end_of_last_line(file)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new one, never a part of it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of a writer that was killed; or a link, which would be written through
        created = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with open(created, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
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
