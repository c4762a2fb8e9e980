"""The rows of a parquet file, kept once they were read: the next load needs neither pyarrow nor what it left out.

What is kept is named by the files (path, size, time of change) and by the code that read them, and holds its own
checksum; anything else is read anew.
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


def distilled(
    name: str,
    files: Sequence[Path],
    code: Iterable[Path],
    read: Callable[[], list[T]],
    make: Callable[..., T],
    fields: Callable[[T], list[object]],
) -> list[T]:
    """The rows as they were kept, or read and kept."""
    path = cache_root() / "rows" / f"{name}-{_key(files, code)}"
    kept = _kept(path)
    if kept is not None:
        return [make(*values) for values in json.loads(kept)]
    rows = read()
    _keep(path, json.dumps([fields(row) for row in rows]).encode())
    return rows


def _key(files: Sequence[Path], code: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    for module in code:
        digest.update(module.read_bytes())
    return digest.hexdigest()[:16]


def _kept(path: Path) -> bytes | None:
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if checksum.decode("ascii", "replace") == hashlib.sha256(content).hexdigest() else None


def _keep(path: Path, content: bytes) -> None:
    """In one step. A cache that can't be written costs time, and nothing else, so it is passed over."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
