"""A study from its file to its results: resolved and checked once, then run cell by cell."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import RunFolderError
from harness.core.progress import Progress
from harness.runs.folder import RunReader
from harness.runs.jsonl import disk_error, write_whole
from harness.runs.lock import locked
from harness.runs.provenance import code_version
from harness.study.arms import Arm, arms_of
from harness.study.cells import Cells, cells_of, segments
from harness.study.config import StudyConfig, read_study
from harness.study.counts import FILE as COUNTS
from harness.study.counts import study_counts, write_counts
from harness.study.index import write_index
from harness.study.jobs import EvalJob, TrainJob
from harness.study.live import Board
from harness.study.runner import Progression, Task, run_tasks

SOURCE = "study.toml"


@dataclass(frozen=True, slots=True)
class Study:
    """A study of which everything is known that can be known before a cell runs."""

    file: Path
    folder: Path
    config: StudyConfig
    arms: Sequence[Arm]
    cells: Cells


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a session of a study."""

    n_run: int
    n_done_before: int
    failures: dict[str, str]
    """Label of each cell that failed -> why; also of the cells that waited for it."""
    ungraded: dict[str, str]
    """Folder of each evaluation with too many ungraded completions -> why."""


def open_study(file: Path, folder: Path) -> Study:
    """Read the file and expand it. Raise for everything that can be refused before a cell runs."""
    config = read_study(file)
    arms = arms_of(config, file.parent)
    if folder.is_file():
        raise RunFolderError(f"{folder} is a file; choose another --out")
    if (folder / "run.json").exists():
        raise RunFolderError(f"{folder} is a run, and a study needs a folder of its own; choose another --out")
    return Study(file, folder, config, arms, cells_of(config, arms, folder))


def tasks_of(study: Study, *, ignore_memory: bool = False) -> tuple[list[Task], int]:
    """Return what is left to run, and the number of jobs that are done. Raise if a folder belongs to another config."""
    tasks: list[Task] = []
    n_done = 0
    for cell in study.cells.trainings:
        if cell.is_done():
            n_done += 1
            continue
        job = TrainJob(cell.label, cell.folder, cell.tree, cell.wanted, tuple(segments(cell)), ignore_memory)
        tasks.append(Task(job, cell.arm, cell.n_steps))
    untrained = {task.label for task in tasks}
    for group in study.cells.groups:
        left = [evaluation for evaluation in group.evaluations if not evaluation.is_done()]
        if not left:
            n_done += 1
            continue
        eval_job = EvalJob(group.label, tuple(e.folder for e in left), tuple(e.tree for e in left))
        after = group.after.label if group.after is not None and group.after.label in untrained else None
        tasks.append(Task(eval_job, group.arm, len(left), after))
    tasks.sort(key=lambda task: task.kind == "train")  # evaluations first: the base, and those of a former session
    return tasks, n_done


def run_study(study: Study, progress: Progress, *, n_workers: int, threads: int, ignore_memory: bool = False) -> Ending:
    """Run every cell that is not done, and write the counts of all."""
    tasks, n_done = tasks_of(study, ignore_memory=ignore_memory)
    with _session(study, progress):
        board = Board(tasks, n_workers, study.folder, progress, n_done=n_done)
        try:
            state = run_tasks(tasks, n_workers, threads, ended=board.ended, watch=board.watch)
        finally:
            board.close()
        write_counts(study_counts(study.folder), study.folder / COUNTS)
    ungraded = {folder: why for outcome in state.ended.values() for folder, why in outcome.ungraded.items()}
    return Ending(len(tasks), n_done, failures_of(state), ungraded)


def failures_of(state: Progression) -> dict[str, str]:
    failed = {label: outcome.error for label, outcome in state.ended.items() if outcome.error is not None}
    return failed | {label: f"not run, as {cause} failed" for label, cause in state.skipped.items()}


# --- the folder -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _session(study: Study, progress: Progress) -> Iterator[None]:
    """Hold the study's folder, with the index and the file as they are now, and log what happens."""
    with locked(study.folder) as lock:
        try:
            text = study.file.read_text(encoding="utf-8")
            former = study.folder / SOURCE
            is_new = not former.exists() or former.read_text(encoding="utf-8") != text
            write_whole(former, text)
            write_index(study.folder, study.config.name, [e.cell for e in study.cells.evaluations])
            version = code_version()
            _log(study.folder, f"session by version {version}" + (", with another study.toml" if is_new else ""))
            if others := other_versions(study, version):
                progress.warn(
                    f"{sum(others.values())} finished cells are by version {', '.join(others)}, and this is {version}; "
                    "they are kept. Remove their folders to run them again"
                )
            yield
        finally:
            os.close(lock)


def other_versions(study: Study, version: str) -> dict[str, int]:
    """Count the cells that another version of the code has run, by version."""
    folders = [cell.folder for cell in study.cells.trainings] + [e.folder for e in study.cells.evaluations]
    found = [RunReader.read(folder).record.code for folder in folders if (folder / "run.json").exists()]
    return {code: found.count(code) for code in sorted(set(found)) if code != version}


def _log(folder: Path, text: str) -> None:
    try:
        with (folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')} {text}\n")
    except OSError as error:
        raise disk_error(folder / "log.txt", error) from error


# --- workers ----------------------------------------------------------------------------------------------------


def n_cores() -> int:
    """Return the cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found if found is not None else 1
