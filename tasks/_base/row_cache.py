"""Cache of the rows of parquet files: a second load needs neither pyarrow nor the columns that were left out.

The key is made of the files (path, size, modification time) and of the code that read them. An entry holds its own
checksum; a damaged one is ignored and the rows are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from harness.data.download import cache_root

T = TypeVar("T")


def cached_rows(
    name: str,
    files: Sequence[Path],
    code: Iterable[Path],
    read: Callable[[], list[T]],
    make: Callable[..., T],
    fields: Callable[[T], list[object]],
) -> list[T]:
    """Return the cached rows; on a miss, read and cache them."""
    path = cache_root() / "rows" / f"{name}-{_key(files, code)}"
    cached = _load(path)
    if cached is not None:
        return [make(*values) for values in json.loads(cached)]
    rows = read()
    _save(path, json.dumps([fields(row) for row in rows]).encode())
    return rows


def _key(files: Sequence[Path], code: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    for module in code:
        digest.update(module.read_bytes())
    return digest.hexdigest()[:16]


def _load(path: Path) -> bytes | None:
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if checksum.decode("ascii", "replace") == hashlib.sha256(content).hexdigest() else None


def _save(path: Path, content: bytes) -> None:
    """Write atomically. An unwritable cache costs only time, so its errors are ignored."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
