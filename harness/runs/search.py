"""Find the run folders below the paths that a user names, such as `runs/*`.

A folder that is not a run is searched for runs: a demo, a study or a sweep keeps several. A run is not searched; the
held-out evaluations of a train run follow it. Runs that only served a choice are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import RunFolderError, UsageError

HELD_OUT_FOLDER = "evals"
SELECTION_FOLDER = "selection"
"""Small runs by which a prompt or a temperature was chosen. They are found only if they are named."""
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """Run folders in the order named, each once, and the paths that hold none."""

    folders: Sequence[Path]
    skipped: Sequence[Path]

    def skipped_text(self) -> str | None:
        """Return one line about the paths without a run; None if every path has one."""
        if not self.skipped:
            return None
        more = f" and {len(self.skipped) - MOST_NAMED} more" if len(self.skipped) > MOST_NAMED else ""
        return f"skipped, as no run is in it: {', '.join(map(str, self.skipped[:MOST_NAMED]))}{more}"


def find_runs(paths: Sequence[Path]) -> FoundRuns:
    """Return the runs among and below the paths. Raise if a path does not exist, or if there is no run at all."""
    if not paths:
        raise UsageError("no run is given; name run folders, such as runs/*")
    found: dict[Path, None] = {}
    skipped: list[Path] = []
    for path in paths:
        if not path.exists():
            raise RunFolderError(f"{path} is not a run folder: it has no run.json; name folders that a run wrote")
        runs = list(_runs_below(path))
        found |= dict.fromkeys(runs)
        if not runs:
            skipped.append(path)
    if not found:
        names = ", ".join(map(str, skipped[:MOST_NAMED]))
        verb = "is not a run folder" if len(skipped) == 1 else "are not run folders"
        missing = "it has no run.json, and no folder below has one" if len(skipped) == 1 else "no run.json is in them"
        raise RunFolderError(f"{names} {verb}: {missing}; name folders that a run wrote")
    return FoundRuns(list(dict.fromkeys(_with_held_out(found))), skipped)


def _runs_below(path: Path) -> Iterator[Path]:
    """Yield the folders with a run.json, sorted by name, without looking into a run or a hidden folder."""
    if not path.is_dir():
        return
    for folder, below, files in os.walk(path.resolve()):
        if "run.json" in files:
            yield Path(folder)
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith(".") and name != SELECTION_FOLDER)


def _with_held_out(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield each run, and after a train run its held-out evaluations by step."""
    for folder in folders:
        yield folder
        yield from sorted(path.parent for path in (folder / HELD_OUT_FOLDER).glob("*/run.json"))
