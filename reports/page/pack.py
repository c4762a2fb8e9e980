"""Chunks of a page: JSON values, deflated, in base64. The page opens each of them when it is looked at.

A page up to `MOST_IN_ONE_FILE` holds its chunks itself. Above that each is a script in a folder next to it: a page from
disk may load scripts, and nothing else.
"""

from __future__ import annotations

import base64
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

LEVEL = 6
"""Of the compression. Higher ones take twice the time for a hundredth of the size."""
MOST_IN_ONE_FILE = 40_000_000
"""Bytes of chunks above which a page becomes a folder."""


class ChunkWriter:
    """Chunks in a temporary file, so that only one of them is in memory. `first` is the number of the first one."""

    def __init__(self, first: int = 0) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open until `close`)
        self._ends: list[int] = [0]
        self._first = first

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def n_bytes(self) -> int:
        return self._ends[-1]

    def add(self, value: Any) -> int:
        """Add a value of JSON types; return the number of its chunk."""
        return self.add_encoded(encode(value))

    def add_encoded(self, text: bytes) -> int:
        data = base64.b64encode(zlib.compress(text, LEVEL))
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))
        return self._first + len(self) - 1

    def text(self, number: int) -> bytes | None:
        """Return a chunk, or None if it is not one of these. Several threads may read, once all have been added."""
        place = number - self._first
        if not 0 <= place < len(self):
            return None
        self._file.flush()
        return os.pread(self._file.fileno(), self._ends[place + 1] - self._ends[place], self._ends[place])

    def texts(self) -> Iterator[str]:
        """Yield the chunks in order."""
        self._file.seek(0)
        for start, end in zip(self._ends, self._ends[1:], strict=False):
            yield self._file.read(end - start).decode("ascii")


class SampleChunks:
    """Samples in the order added, in chunks of about `BYTES` each, and where each chunk begins."""

    BYTES = 400_000

    def __init__(self, chunks: ChunkWriter) -> None:
        self._chunks = chunks
        self._rows: list[bytes] = []
        self._n_bytes = self._n_rows = 0
        self.starts: list[int] = []
        """The first row of each chunk."""
        self.numbers: list[int] = []
        """The number of each chunk."""

    def add(self, row: Any) -> None:
        text = encode(row)
        if self._rows and self._n_bytes + len(text) > self.BYTES:
            self.close()
        self._rows.append(text)
        self._n_bytes += len(text)
        self._n_rows += 1

    def close(self) -> None:
        """Write the last rows."""
        if self._rows:
            self.starts.append(self._n_rows - len(self._rows))
            self.numbers.append(self._chunks.add_encoded(b"[" + b",".join(self._rows) + b"]"))
            self._rows, self._n_bytes = [], 0


def encode(value: Any) -> bytes:
    """Return JSON that a browser reads: numbers that are not finite are null, half a surrogate pair is an escape."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError):
        return json.dumps(_finite(value), separators=(",", ":")).encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
