"""Find the train run behind an evaluated checkpoint, also where the run folders have been moved since.

An evaluation records a fingerprint of its checkpoint, and the path of its model. The path may be relative to another
folder than the current one, or be that of another machine. A train run that contradicts the record is never taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from harness.core.errors import RunFolderError
from harness.models.loading import CHECKPOINT_PREFIX, fingerprint
from harness.reports.run_config import subtable
from harness.runs.folder import RunReader

CHECKPOINTS_FOLDER = "checkpoints"
MOST_PARENTS = 2
"""Folders above an evaluation whose train runs are looked through for the checkpoint."""


def find_trainer(run: RunReader, path: str) -> RunReader | None:
    """Return the train run that made the model at this path, as the run recorded it; None without a sure one.

    A train run whose checkpoint has the recorded fingerprint is sure. Without checkpoint or fingerprint, the recorded
    path has to lead to it: from the current folder or from one above the run, and not to different ones.
    """
    recorded = Path(path)
    here = train_run(_run_folder(recorded))
    if here is not None and (agrees := _agrees(run, here, recorded)) is not None:
        if agrees:
            return here
        here = None
    above = [(model, found) for model in _above(run, recorded) if (found := _readable(_run_folder(model))) is not None]
    same = next((found for model, found in above if _agrees(run, found, model)), None)
    same = same if same is not None else _same_checkpoint(run, recorded)
    return same if same is not None else _by_path(run, recorded, here, above)


def train_run(folder: Path) -> RunReader | None:
    """Return the run in a folder if it is a train run."""
    if not (folder / "run.json").is_file():
        return None
    view = RunReader.read(folder.resolve())
    return view if view.record.kind == "train" else None


def _readable(folder: Path) -> RunReader | None:
    """Return the train run in a folder that nobody named; one that can't be read is as good as none."""
    with contextlib.suppress(RunFolderError):
        return train_run(folder)
    return None


def _run_folder(model: Path) -> Path:
    return model.parent.parent if model.parent.name == CHECKPOINTS_FOLDER else model


# --- agreement with the record ----------------------------------------------------------------------------------


def _agrees(run: RunReader, trainer: RunReader, model: Path) -> bool | None:
    """Return whether the checkpoint has the recorded fingerprint; None if one of the two is not there."""
    facts = subtable(run.record.data, "model")
    name = model.name if model.parent.name == CHECKPOINTS_FOLDER else str(facts.get("name"))
    if not _is_checkpoint(name) or "fingerprint" not in facts:
        return None
    found = _fingerprint_of(trainer.folder / CHECKPOINTS_FOLDER / name)
    return None if found is None else found == facts["fingerprint"]


def _is_checkpoint(name: str) -> bool:
    return name.startswith(CHECKPOINT_PREFIX) and name.removeprefix(CHECKPOINT_PREFIX).isdecimal()


def _fingerprint_of(checkpoint: Path) -> str | None:
    if not checkpoint.is_dir():
        return None
    with os.scandir(checkpoint) as entries:
        stamp = tuple(sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries))
    return _read_fingerprint(checkpoint, stamp)


@lru_cache(maxsize=1024)
def _read_fingerprint(checkpoint: Path, _stamp: object) -> str | None:
    return fingerprint(str(checkpoint)).get("fingerprint")


# --- where it may be --------------------------------------------------------------------------------------------


def _above(run: RunReader, recorded: Path) -> Iterator[Path]:
    """Yield the recorded path from each folder above the run, the nearest first."""
    if not recorded.is_absolute():
        for parent in run.folder.resolve().parents:
            yield parent / recorded


def _same_checkpoint(run: RunReader, recorded: Path) -> RunReader | None:
    """Return the train run near the evaluation that has the very checkpoint; None if there are different ones.

    It is searched under the end of the recorded path, as the beginning may be that of another machine, and among the
    folders next to the evaluation, as a run may have another name now.
    """
    name = str(subtable(run.record.data, "model").get("name"))
    if not _is_checkpoint(name):
        return None
    parents = run.folder.resolve().parents
    parts = _run_folder(recorded).parts
    ends = [Path(*parts[start:]) for start in range(1, len(parts))]
    folders = [parent / end for end in ends for parent in parents]
    checkpoints = [path for near in parents[:MOST_PARENTS] for path in near.glob(f"*/{CHECKPOINTS_FOLDER}/{name}")]
    for group in (folders, map(_run_folder, checkpoints)):
        found = [one for folder in group if (one := _readable(folder)) is not None and _agrees(run, one, folder)]
        if found:
            return found[0] if len({one.record.config_digest for one in found}) == 1 else None
    return None


def _by_path(
    run: RunReader, recorded: Path, here: RunReader | None, above: Sequence[tuple[Path, RunReader]]
) -> RunReader | None:
    """Return the train run to which the recorded path leads, with nothing but the path to go by."""
    name, created = _run_folder(recorded).name, run.record.created
    fitting = (
        found
        for model, found in above
        if _agrees(run, found, model) is None and found.record.id == name and found.record.created <= created
    )
    there = next(fitting, None)
    if here is None or there is None or here.folder == there.folder:
        return here if here is not None else there
    return here if Path.cwd() in run.folder.resolve().parents else None
