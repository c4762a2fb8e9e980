"""A study from its file to its results: resolved and checked once, then run cell by cell."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.core.errors import RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import Split
from harness.reports.render import to_terminal
from harness.runs.folder import RunReader
from harness.runs.jsonl import disk_error, write_whole
from harness.runs.lock import locked
from harness.runs.provenance import code_version
from harness.study.arms import Arm, arms_of
from harness.study.cells import Cells, TrainCell, cells_of, segments
from harness.study.config import StudyConfig, read_study
from harness.study.counts import FILE as COUNTS
from harness.study.counts import group_counts, study_counts, write_counts
from harness.study.forecast import forecast
from harness.study.index import write_index
from harness.study.jobs import ControlJob, EvalJob, Outcome, TrainJob
from harness.study.live import Board
from harness.study.ray_pool import RayPlace, ray_pool
from harness.study.report import write_study_report
from harness.study.runner import Pool, Progression, Task, processes, run_tasks
from harness.study.tuning import Trial, check_splits, choose, trials_of, tuned, write_choice

SOURCE = "study.toml"


@dataclass(frozen=True, slots=True)
class Study:
    """A study of which everything is known that can be known before a cell runs."""

    file: Path
    folder: Path
    config: StudyConfig
    arms: Sequence[Arm]
    """With the settings that tuning has chosen, as far as it has; else with the first of the grid."""
    cells: Cells
    trials: Sequence[Trial]
    """The tuning stage; empty without one."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many processes run side by side, and the memory of the largest one."""

    count: int
    threads: int
    bytes_each: int
    bytes_available: int
    ray: RayPlace | None = None
    """The cluster that they run on, instead of processes of this machine."""

    def pool(self, n_tasks: int) -> AbstractContextManager[Pool]:
        count = min(self.count, n_tasks)
        return processes(count, self.threads) if self.ray is None else ray_pool(self.ray, self.count)


@dataclass(slots=True)
class Ending:
    """The end of a session of a study."""

    n_run: int = 0
    n_done_before: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Label of each cell that failed -> why; also of the cells that waited for it."""
    ungraded: dict[str, str] = field(default_factory=dict)
    """Folder of each evaluation with too many ungraded completions -> why."""
    page: Path | None = None
    """The report."""


def open_study(file: Path, folder: Path) -> Study:
    """Read the file and expand it. Raise for everything that can be refused before a cell runs."""
    if file_there := next((path for path in (folder, *folder.parents) if path.is_file()), None):
        raise RunFolderError(f"{file_there} is a file; choose another --out")
    if (folder / "run.json").exists():
        raise RunFolderError(f"{folder} is a run, and a study needs a folder of its own; choose another --out")
    config = read_study(file)
    arms = arms_of(config, file.parent)
    trials = trials_of(config, arms, folder)
    study = _with_choice(Study(file, folder, config, arms, Cells([], [], []), trials), is_final=False)
    if trials:
        check_splits(trials[0], [evaluation.tree for evaluation in study.cells.groups[0].evaluations])
    return study


def _with_choice(study: Study, *, is_final: bool) -> Study:
    """Return the study whose arms have the settings that its trials have chosen."""
    chosen = choose(study.trials, study.config.tuning.rule, is_final=is_final)
    arms = tuned(arms_of(study.config, study.file.parent), chosen)
    return replace(study, arms=arms, cells=cells_of(study.config, arms, study.folder))


def tasks_of(cells: Cells, base: str, *, ignore_memory: bool = False) -> tuple[list[Task], int]:
    """Return what is left to run, and the number of jobs that are done. Raise if a folder belongs to another config."""
    tasks: list[Task] = []
    for cell in cells.trainings:
        if not cell.is_done():
            job = TrainJob(cell.label, cell.folder, cell.tree, cell.wanted, tuple(segments(cell)), ignore_memory)
            tasks.append(Task(job, cell.arm, cell.n_steps))
    untrained = {task.label for task in tasks}

    def waits_for(cell: TrainCell | None) -> str | None:
        return cell.label if cell is not None and cell.label in untrained else None

    for group in cells.groups:
        left = [evaluation for evaluation in group.evaluations if not evaluation.is_done()]
        if left:
            eval_job = EvalJob(group.label, tuple(e.folder for e in left), tuple(e.tree for e in left))
            tasks.append(Task(eval_job, group.arm, len(left), waits_for(group.after)))
    for controls in cells.controls:
        if not controls.is_done():
            split: Split = "validation" if controls.tree["split"] != "validation" else "train"
            control_job = ControlJob(controls.label, controls.folder, controls.tree, base, split)
            tasks.append(Task(control_job, controls.arm, 1, waits_for(controls.after)))
    # Evaluations first: the base, and those of a former session. Controls last.
    tasks.sort(key=lambda task: ("eval", "train", "control").index(task.kind))
    return tasks, len(cells.trainings) + len(cells.groups) + len(cells.controls) - len(tasks)


def trial_tasks(study: Study, *, ignore_memory: bool = False) -> tuple[list[Task], int]:
    trials = [(trial.training, trial.evaluations) for trial in study.trials]
    cells = Cells([training for training, _ in trials], [group for _, group in trials], [])
    return tasks_of(cells, study.config.base, ignore_memory=ignore_memory)


def run_study(study: Study, progress: Progress, used: Workers, *, ignore_memory: bool = False) -> Ending:
    """Run every trial and every cell that is not done, and write the counts and the report of all."""
    ending = Ending()
    if not study.trials:
        tasks, n_done = tasks_of(study.cells, study.config.base, ignore_memory=ignore_memory)
    with _session(study, progress):
        if study.trials:
            _run(study, *trial_tasks(study, ignore_memory=ignore_memory), used, progress, ending)
            study = _with_choice(study, is_final=True)
            chosen = choose(study.trials, study.config.tuning.rule)
            write_choice(study.folder, study.config, study.trials, chosen)
            tasks, n_done = tasks_of(study.cells, study.config.base, ignore_memory=ignore_memory)
        _run(study, tasks, n_done, used, progress, ending)
        counts = study_counts(study.folder)
        write_counts(counts, study.folder / COUNTS)
        if len(counts):
            ending.page = write_study_report(study, counts, ending.failures, versions(study))
    return ending


def _run(study: Study, tasks: Sequence[Task], n_done: int, used: Workers, progress: Progress, ending: Ending) -> None:
    board = Board(tasks, used.count, study.folder, progress, n_done=n_done)
    base = study.cells.groups[0]

    def ended(task: Task, outcome: Outcome) -> None:
        board.ended(task, outcome)
        if outcome.error is not None:
            _log(study.folder, f"{task.label} failed: {outcome.error}\n{outcome.trace}".rstrip())
        elif task.label == base.label:
            counts = group_counts(study.folder, [evaluation.cell for evaluation in base.evaluations])
            table = forecast(counts, study.config.forecast, len(study.config.seeds), len(study.arms))
            board.say(to_terminal(table))

    try:
        with used.pool(len(tasks)) as pool:
            state = run_tasks(tasks, pool, ended=ended, watch=board.watch)
    finally:
        board.close()
    ending.n_run += len(tasks)
    ending.n_done_before += n_done
    ending.failures |= _failures(state)
    ending.ungraded |= {folder: why for outcome in state.ended.values() for folder, why in outcome.ungraded.items()}


def _failures(state: Progression) -> dict[str, str]:
    failed = {label: outcome.error for label, outcome in state.ended.items() if outcome.error is not None}
    return failed | {label: f"not run, as {cause} failed" for label, cause in state.skipped.items()}


# --- the folder -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _session(study: Study, progress: Progress) -> Iterator[None]:
    """Hold the study's folder, with the index and the file as they are now, and log what happens."""
    with locked(study.folder) as lock:
        text = study.file.read_text(encoding="utf-8")
        former = study.folder / SOURCE
        is_new = not former.exists() or former.read_text(encoding="utf-8") != text
        write_whole(former, text)
        write_index(study.folder, study.config.name, [e.cell for e in study.cells.evaluations])
        version = code_version()
        _log(study.folder, f"session by version {version}" + (", with another study.toml" if is_new else ""))
        others = {code: n for code, n in versions(study).items() if code != version}
        if others:
            progress.warn(
                f"{sum(others.values())} finished cells are by version {', '.join(others)}, and this is {version}; "
                "they are kept. Remove their folders to run them again"
            )
        yield
    os.close(lock)  # after an error it is closed already


def versions(study: Study) -> Mapping[str, int]:
    """Count the cells by the version of the code that began them."""
    folders = [cell.folder for cell in study.cells.trainings] + [e.folder for e in study.cells.evaluations]
    found = [RunReader.read(folder).record.code for folder in folders if (folder / "run.json").exists()]
    return {code: found.count(code) for code in sorted(set(found))}


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
