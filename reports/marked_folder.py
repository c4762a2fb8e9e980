"""A folder of files that a command writes again and again: reports and plots.

A mark in it lists the files, so that the next run replaces and removes those and no others. A folder with files in it
and without the mark is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness.core.errors import UsageError
from harness.runs.jsonl import disk_error, write_whole

FORMAT = 1


@dataclass(frozen=True, slots=True)
class MarkedFolder:
    """A folder with the mark of one kind of files."""

    folder: Path
    mark: str
    """Name of the file that is the mark."""
    kind: str
    """The folder in a message: `a report`."""
    endings: Sequence[str]
    """Of the files that may be removed when they are no longer part of it."""
    unlisted: Sequence[str] = ()
    """Files that belong to every folder of this kind, and are not in the list."""

    def former_files(self) -> list[str]:
        """Return the files in the folder that the mark allows to remove; raise for a folder with other files."""
        folder, mark = self.folder, self.folder / self.mark
        if not folder.exists():
            return []
        if not folder.is_dir():
            raise UsageError(f"{folder} is a file; choose another --out")
        if not mark.exists():
            if any(path.name != self.mark + ".tmp" for path in folder.iterdir()):
                raise UsageError(
                    f"{folder} has files in it and is not {self.kind} (no {self.mark}); choose another --out"
                )
            return []
        try:
            listed = json.loads(mark.read_text(encoding="utf-8"))
            if listed["format"] != FORMAT:
                raise UsageError(
                    f"{folder} is {self.kind} of format {listed['format']}, not {FORMAT}; choose another --out"
                )
            known = [name for name in listed["files"] if Path(name).name == name and Path(name).suffix in self.endings]
            return [name for name in (*known, *self.unlisted) if name != self.mark]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{mark} is not the mark of {self.kind}: {error!r}; choose another --out") from None

    def replace(self, former: Sequence[str], contents: Mapping[str, str | bytes], **facts: Any) -> None:
        """Write the files in the place of the former ones. Where one can't be written, the mark lists all of them."""
        self._write_mark([*former, *contents], facts)
        for name, content in contents.items():
            write_whole(self.folder / name, content)
        for name in sorted(set(former) - {*contents}):
            (self.folder / name).unlink(missing_ok=True)
        self._write_mark(list(contents), facts)

    def _write_mark(self, names: Sequence[str], facts: Mapping[str, Any]) -> None:
        files = [name for name in dict.fromkeys(names) if name not in self.unlisted]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        mark = {"format": FORMAT, "harness": harness.__version__, **facts, "files": files}
        write_whole(self.folder / self.mark, json.dumps(mark, indent=1) + "\n")
