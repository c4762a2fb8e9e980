"""A job is a training, or the evaluations of one checkpoint. Worker processes run one after the other.

A worker imports torch once. A job that fails is an outcome, and the worker takes the next one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.core.config import Tree, merge, parse
from harness.core.errors import DiskError, HarnessError
from harness.core.progress import Progress
from harness.core.protocols import Split, Task
from harness.evaluation.config import EvalConfig
from harness.evaluation.control_runs import plan_controls, run_controls
from harness.evaluation.controls import ControlsConfig
from harness.evaluation.loop import evaluate_all
from harness.evaluation.sequential import check_until
from harness.evaluation.setup import EvalSetup, build_tasks, check, resolve
from harness.runs.jsonl import write_whole

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train until there is a checkpoint at each wanted step."""

    label: str
    folder: Path
    tree: Tree
    wanted: tuple[int, ...]
    """In ascending order."""
    stops: tuple[int, ...]
    """Steps to train to, one after the other, so that all wanted checkpoints are saved on the way."""
    ignore_memory: bool = False


@dataclass(frozen=True, slots=True)
class EvalJob:
    """Evaluate one model several times."""

    label: str
    folders: tuple[Path, ...]
    trees: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class ControlJob:
    """Evaluate a trained model and the controls of `harness eval --controls`."""

    label: str
    folder: Path
    tree: Tree
    base: str
    split: Split
    """Prompts and temperatures are chosen on it."""


Job = TrainJob | EvalJob | ControlJob


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job."""

    seconds: float
    error: str | None = None
    is_disk_full: bool = False
    trace: str = ""
    """Of an error that is not a HarnessError, and so a fault of the program."""
    ungraded: Mapping[str, str] = field(default_factory=dict)
    """Folder of an evaluation with too many ungraded completions -> why."""


def work(jobs: Connection, threads: int) -> None:
    """Run jobs until None comes. The main function of a worker process."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        while (job := jobs.recv()) is not None:
            jobs.send(run_job(job))
    except (EOFError, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED) from None


def _exit_with_parent() -> None:
    """Exit when the parent does: a parent that is killed can't end its children, and they hold the run folders."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker runs in a process that was started for it"
    parent.join()
    os._exit(1)


def run_job(job: Job) -> Outcome:
    began_s = time.monotonic()
    try:
        ungraded = dict(_evaluate(job)) if isinstance(job, EvalJob) else {}
        if isinstance(job, TrainJob):
            _train(job)
        elif isinstance(job, ControlJob):
            _control(job)
    except HarnessError as error:
        return Outcome(time.monotonic() - began_s, str(error), isinstance(error, DiskError))
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        text = f"{type(error).__name__}: {first_line}"
        return Outcome(time.monotonic() - began_s, text, trace=traceback.format_exc())
    return Outcome(time.monotonic() - began_s, ungraded=ungraded)


# --- training ---------------------------------------------------------------------------------------------------


def _train(job: TrainJob) -> None:
    """Train to each stop. A checkpoint that training has passed and not kept is made by training to it again."""
    from harness.models.loading import checkpoint_folders, step_of

    def saved(folder: Path) -> set[int]:
        return {step_of(path) for path in checkpoint_folders(folder)}

    for step in job.stops:
        # The last one is opened even if it is there, so that its run ends as done.
        if max(saved(job.folder), default=0) < step or step == job.stops[-1] == max(saved(job.folder)):
            _train_to(job, job.folder, step)
    again = job.folder.with_name("train-again")
    missing = sorted(set(job.wanted) - saved(job.folder))
    for step in missing:
        if step not in saved(again):
            _train_to(job, again, step)
    for name in map(_name, missing):
        (again / "checkpoints" / name).rename(job.folder / "checkpoints" / name)
    shutil.rmtree(again, ignore_errors=True)


def _train_to(job: TrainJob, folder: Path, step: int) -> None:
    from harness.trainers.config import TrainConfig
    from harness.trainers.train import train

    config = parse(TrainConfig, merge(job.tree, {"loop": {"steps": step}}))
    train(config, folder, Progress(quiet=True), ignore_memory=job.ignore_memory)


def _name(step: int) -> str:
    from harness.models.loading import CHECKPOINT_PREFIX

    return f"{CHECKPOINT_PREFIX}{step:06d}"


# --- evaluation -------------------------------------------------------------------------------------------------

_tasks: dict[str, Mapping[str, Task[Any]]] = {}
"""Tasks that this process has built, by their settings: all evaluations of a study ask the same ones."""


def _evaluate(job: EvalJob) -> Iterator[tuple[str, str]]:
    """Evaluate, and yield each folder with too many ungraded completions and why they are."""
    quiet = Progress(quiet=True)
    setups = [_setup(tree, folder, quiet) for tree, folder in zip(job.trees, job.folders, strict=True)]
    for setup, done in zip(setups, evaluate_all(setups, quiet), strict=True):
        if done.share_ungraded > setup.config.max_ungraded:
            reason = next(iter(done.reasons), "")
            yield str(setup.folder), f"{done.n_ungraded} of {done.n_completions} completions are ungraded: {reason}"


def _setup(tree: Tree, folder: Path, progress: Progress) -> EvalSetup:
    config = parse(EvalConfig, tree)
    key = json.dumps([tree["tasks"], tree.get("grader"), tree.get("per_task")], sort_keys=True)
    if key not in _tasks:
        _tasks[key] = build_tasks(config)
    setup = resolve(config, folder, progress, tasks=_tasks[key])
    check(setup)
    check_until(setup)
    return setup


# --- controls ---------------------------------------------------------------------------------------------------

CONTROLS_DONE = "controls.json"
"""In the folder of a control job that is done: the settings it was done with."""


def _control(job: ControlJob) -> None:
    quiet = Progress(quiet=True)
    settings = ControlsConfig(base=job.base, split=job.split)
    run_controls(plan_controls(parse(EvalConfig, job.tree), settings, job.folder, quiet), quiet)
    write_whole(job.folder / CONTROLS_DONE, json.dumps(job.tree, indent=1) + "\n")
