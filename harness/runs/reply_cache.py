"""Replies of a judge on disk, by the digest of what was asked. One file each, so that processes can share a folder."""

from __future__ import annotations

import json
from pathlib import Path

from harness.core.errors import DiskError, RunFolderError
from harness.runs.jsonl import write_whole


class ReplyCache:
    """A file that can't be read is asked for again; a disk that can't be written costs the cache alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, digest: str) -> str | None:
        try:
            reply = json.loads(self._path(digest).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return reply if isinstance(reply, str) else None

    def put(self, digest: str, reply: str) -> bool:
        """Return whether it is kept."""
        try:
            self._path(digest).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(digest), json.dumps({"reply": reply}) + "\n")
        except (OSError, DiskError, RunFolderError):
            return False
        return True

    def drop(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / f"{digest}.json"
