"""Rows of any data file with their numbers, as a stream: JSONL, JSON, CSV and parquet, gzipped or not.

The form is read from the content, except that of CSV, which its name gives. Every error names the file and the line, or
the row where a file has no lines.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from harness.core.errors import DataError

Record = dict[str, Any]
Form = Literal["jsonl", "json", "csv", "parquet"]
PARQUET_ROWS = 256
PIECE_CHARACTERS = 1 << 16
LARGEST_FIELD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows."""

    path: Path
    form: Form

    @classmethod
    def open(cls, path: Path) -> RowFile:
        """Find the form of the file. Raise DataError for one that can't be read or is empty."""
        try:
            with _opened(path) as stream:
                head = stream.read(4096)
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(path, error) from None
        if not head.strip():
            raise DataError(f"{path} is empty")
        return cls(path, _form(path, head))

    def at(self, number: int) -> str:
        """Return the place of a row for a message."""
        return f"{self.path}, {'line' if self.form in ('jsonl', 'csv') else 'row'} {number}"

    def rows(self) -> Iterator[tuple[int, Record]]:
        """Yield each row with its number, counted from 1."""
        number = 0
        try:
            for number, value in _READERS[self.form](self.path):
                if not isinstance(value, dict):
                    raise DataError(f"{self.at(number)} is not an object with named fields")
                yield number, value
        except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{self.path} can't be read after {self.at(number)[len(str(self.path)) + 2 :]}: {error}"
            ) from None


def unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} does not exist")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path} is a folder; name the files in it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror is not None else str(error)
    return DataError(f"{path} can't be read: {reason}")


def _opened(path: Path) -> IO[bytes]:
    stream = path.open("rb")
    if stream.read(2) != b"\x1f\x8b":
        stream.seek(0)
        return stream
    stream.close()
    return gzip.open(path)  # type: ignore[return-value]  # a binary stream as well


def _form(path: Path, head: bytes) -> Form:
    if head.startswith(b"PAR1"):
        return "parquet"
    if path.name.lower().removesuffix(".gz").endswith(".csv"):
        return "csv"
    begun = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begun.startswith(b"["):
        return "json"
    if begun.startswith(b"{"):
        first, newline, _ = begun.partition(b"\n")
        return "json" if newline and not _is_json(first) else "jsonl"
    raise DataError(f"{path} is neither JSON, JSONL, CSV (by its name) nor parquet")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# --- JSONL ------------------------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with _opened(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _decoded(path, number, line)


def _decoded(path: Path, number: int, line: bytes) -> Any:
    import msgspec  # late: most commands read no such file

    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):  # NaN, half a surrogate pair, or not JSON
        try:
            return json.loads(line)
        except ValueError as error:
            cut = "the file was cut off" if not line.endswith(b"\n") else "repair or remove it"
            raise DataError(f"{path}, line {number} is not JSON ({error}); {cut}") from None


# --- JSON -------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the items of a list without holding all of it; a single object is one row."""
    with _opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig") as stream:
        text = _Text(path, stream)
        if text.peek() == "{":
            yield 1, text.value(1)
            text.end(1)
            return
        text.skip("[")
        number = 0
        while text.peek() != "]":
            if number:
                text.skip(",")
            number += 1
            yield number, text.value(number)
        text.skip("]")
        text.end(number)


class _Text:
    """The rest of a JSON text, read in pieces."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self._path, self._stream = path, stream
        self._held, self._at = "", 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            rest = self._held[self._at :].lstrip()
            if rest:
                self._held, self._at = rest, 0
                return rest[0]
            if not self._more():
                return ""

    def skip(self, character: str) -> None:
        if self.peek() != character:
            found = repr(self.peek()) if self.peek() else "the end of the file"
            raise DataError(f"{self._path} is not a JSON list: {character!r} is expected, not {found}; was it cut off?")
        self._at += 1

    def value(self, number: int) -> Any:
        """Decode the next value; read on while it is incomplete."""
        self.peek()
        wanted = 0
        while True:
            try:
                value, end = self._decode(self._held, self._at)
            except ValueError as error:
                wanted = max(PIECE_CHARACTERS, len(self._held))  # doubled, so that a long value is tried a few times
                if not self._more(wanted):
                    raise DataError(
                        f"{self._path}, row {number} is not JSON ({error}); was the file cut off?"
                    ) from None
                continue
            self._at = end
            return value

    def end(self, number: int) -> None:
        if self.peek():
            raise DataError(f"{self._path} goes on after its {number} rows: it is not one JSON document")

    def _more(self, characters: int = PIECE_CHARACTERS) -> bool:
        piece = self._stream.read(characters)
        self._held, self._at = self._held[self._at :] + piece, 0
        return bool(piece)


# --- CSV, parquet -----------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    limit = csv.field_size_limit(LARGEST_FIELD)
    try:
        with _opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for record in reader:
                if None in record or None in record.values():
                    raise DataError(f"{path}, line {reader.line_num} has more or fewer fields than the header")
                yield reader.line_num, record
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with contextlib.closing(parquet.ParquetFile(path)) as file:
            batches = file.iter_batches(batch_size=PARQUET_ROWS)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} can't be read as parquet: {str(error).splitlines()[0]}; was it cut off?") from None


_READERS: dict[Form, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
