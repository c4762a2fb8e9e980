"""Digests of the files of a checkpoint, so that a changed byte is noticed before the checkpoint is used.

`digests.json` lies in the folder of each checkpoint and names the SHA-256 of every other file. A folder without it is
taken as it is. Files that were removed on purpose, such as the training state, are not missed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness.core.errors import ModelError

FILE = "digests.json"


def write_digests(folder: Path) -> None:
    """Write the digests of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    digests = {str(path.relative_to(folder)): _digest(path) for path in files}
    (folder / FILE).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def check_digests(folder: Path) -> None:
    """Raise ModelError if a file of the folder does not have its digest."""
    if not (folder / FILE).is_file():
        return
    for name, digest in _read(folder / FILE).items():
        path = folder / name
        if path.is_file() and _digest(path) != digest:
            raise ModelError(
                f"{path} does not have the digest in {FILE}: it was altered or damaged; restore it, or use another "
                f"checkpoint (remove {FILE} if you changed it on purpose)"
            )


def _read(path: Path) -> dict[str, str]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise ValueError("it does not name files and digests")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read: {error}; use another checkpoint") from None
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
