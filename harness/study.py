"""Arms x seeds: train, evaluate, report, resumable cell by cell. The demo is the one study there is so far.

A cell is a run folder, so a study that was stopped goes on where it was, and one that is done only reports. Arms
train and are evaluated side by side, in processes with a share of the cores each; they are watched through their
folders.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.errors import HarnessError, RunError, RunFolderError
from harness.core.journal import read_lines
from harness.core.progress import Progress
from harness.core.store import RunStore
from harness.eval_config import EvalConfig
from harness.evaluate import evaluate

WATCH_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train, or none: `recipe` None evaluates the base model as it is."""

    name: str
    recipe: str | None


@dataclass(frozen=True, slots=True)
class Study:
    """Where everything goes, and what the arms share."""

    folder: Path
    steps: int
    seed: int
    limit: int
    """Problems in an evaluation."""

    def train_folder(self, arm: Arm) -> Path:
        return self.folder / f"train-{arm.name}"

    def cells(self, arm: Arm) -> Mapping[float, Path]:
        """Temperature -> the folder of its evaluation."""
        name = arm.name if arm.recipe is None else f"{arm.name}-{self.steps}"
        return {temperature: self.folder / f"{name}-T{temperature:g}" for temperature in DEMO_TEMPERATURES}


DEMO_MODEL = "countdown-tiny"
DEMO_ARMS = (Arm("base", None), Arm("grpo", "countdown-grpo"), Arm("flowrl", "countdown-flowrl"))
DEMO_TEMPERATURES = (1.0, 0.6)
DEMO_N, DEMO_LIMIT = 64, 96
# Two processes have about the same to do: GRPO reads no reference, and the base is not trained.
DEMO_LANES = (("grpo", "base"), ("flowrl",))
# Writing a checkpoint of so small a model takes an eighth of a step.
DEMO_CHECKPOINT_EVERY_STEPS = 10


def demo(folder: Path, steps: int, seed: int, progress: Progress, *, limit: int = DEMO_LIMIT) -> Sequence[Path]:
    """Train GRPO and FlowRL from the bundled base on countdown and evaluate all three on held-out problems.

    Returns the folders of the evaluations, arm by arm.
    """
    study = Study(folder, steps, seed, limit)
    _refuse_what_is_there(study)
    progress.say(f"training grpo and flowrl side by side, {steps} steps each, and evaluating them and the base")
    lanes = [[arm for name in names for arm in DEMO_ARMS if arm.name == name] for names in DEMO_LANES]
    with _running(study, lanes) as processes:
        _watch(processes, study, progress)
    return [cell for arm in DEMO_ARMS for cell in study.cells(arm).values()]


def _refuse_what_is_there(study: Study) -> None:
    """What an arm would refuse about its folders, before any of them has begun; and make the folder of all."""
    if study.folder.is_file():
        raise RunFolderError(f"{study.folder} is a file; choose another --out")
    for arm in DEMO_ARMS:
        if arm.recipe is not None and study.train_folder(arm).exists():  # not before, for it takes importing torch
            from harness.trainers.refusals import refuse_fewer_steps

            RunStore.refuse(study.train_folder(arm), "train", _training(study, arm), {})
            refuse_fewer_steps(study.train_folder(arm), study.steps)
        for temperature, cell in study.cells(arm).items():
            RunStore.refuse(cell, "eval", _evaluation(study, arm, temperature), {})
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{study.folder} can't be made: {error.strerror}; choose another --out") from None


@contextlib.contextmanager
def _running(study: Study, lanes: Sequence[Sequence[Arm]]) -> Iterator[Sequence[Any]]:
    """A process for each lane. Raises when one has failed, after all have ended."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores if cores is not None else 1) // len(lanes))
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    processes = [context.Process(target=_run_lane, args=(study, lane, threads, failures)) for lane in lanes]
    try:
        for process in processes:
            process.start()
        yield processes
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()  # those that have ended are not touched
            process.join()
    if not failures.empty():
        raise RunError(failures.get())
    if any(process.exitcode != 0 for process in processes):
        raise RunError(f"a process ended by itself, with exit code {max(p.exitcode or 0 for p in processes)}")


def _run_lane(study: Study, arms: Sequence[Arm], threads: int, failures: Any) -> None:
    """Train and evaluate one arm after the other, in a process of its own."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet = Progress(quiet=True)
    for arm in arms:
        try:
            if arm.recipe is not None:
                from harness.trainers.run import train

                train(_training(study, arm), study.train_folder(arm), quiet)
            for temperature, cell in study.cells(arm).items():
                evaluate(_evaluation(study, arm, temperature), cell, quiet)
        except HarnessError as error:
            failures.put(f"the arm {arm.name!r} failed: {error}")
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def _end_with_parent() -> None:
    """A parent that is killed can't end its children, and they would hold the run folders."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a lane runs in a process that was started for it"
    parent.join()
    os._exit(1)


def _training(study: Study, arm: Arm) -> Any:
    from harness.show import find_config
    from harness.trainers.settings import TrainConfig

    assert arm.recipe is not None
    ours = {
        "loop": {"steps": study.steps},
        "seed": study.seed,
        "checkpoint": {"every_steps": DEMO_CHECKPOINT_EVERY_STEPS},
    }
    return configs.parse(TrainConfig, configs.merge(configs.read_toml(find_config(arm.recipe)), ours))


def _watch(processes: Sequence[Any], study: Study, progress: Progress) -> None:
    """Show the steps of all arms together, with each arm's newest reward, then the completions of all evaluations."""
    trained = [arm for arm in DEMO_ARMS if arm.recipe is not None]
    cells = [cell for arm in DEMO_ARMS for cell in study.cells(arm).values()]

    def steps() -> tuple[int, Mapping[str, float]]:
        rows = {arm.name: list(read_lines(study.train_folder(arm) / "steps.jsonl")) for arm in trained}
        rewards = {f"{name} reward": row[-1]["reward"] for name, row in rows.items() if row}
        return sum(map(len, rows.values())), rewards

    def completions() -> tuple[int, Mapping[str, float]]:
        return sum(_n_lines(cell / "completions.jsonl") for cell in cells), {}

    _follow(processes, progress, "train", study.steps * len(trained), steps)
    _follow(processes, progress, "evaluate", DEMO_N * study.limit * len(cells), completions)


def _follow(
    processes: Sequence[Any],
    progress: Progress,
    title: str,
    total: int,
    look: Callable[[], tuple[int, Mapping[str, float]]],
) -> None:
    """Show how far one kind of work is, until all of it is done or nobody is left who does it."""
    n_done, figures = look()
    progress.begin(title, total, n_done)
    while n_done < total and any(process.is_alive() for process in processes):
        time.sleep(WATCH_EVERY_S)
        n_before, (n_done, figures) = n_done, look()
        progress.advance(n_done - n_before, figures)
    progress.end()


def _n_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _evaluation(study: Study, arm: Arm, temperature: float) -> EvalConfig:
    model = DEMO_MODEL if arm.recipe is None else str(study.train_folder(arm))
    settings = {
        "model": {"path": model},
        "tasks": ["countdown"],
        "sampling": {"temperature": temperature},
        "n": DEMO_N,
        "limit": study.limit,
        "metrics": [{"id": "pass_at_k", "ks": [1, 4, 16, 64]}, {"id": "distinct_at_k", "ks": [16, 64]}],
    }
    return configs.parse(EvalConfig, settings)
