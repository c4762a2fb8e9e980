"""Train and compare GRPO and FlowRL side by side, on this machine.

Both and the base model are evaluated. Every evaluation is a run folder, so a demo that was stopped resumes, and one
that is done only reports. The arms train and are evaluated in two processes with half of the cores each; progress is
read from their folders.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import DONE, FAILED, INTERRUPTED
from harness.commands.base.arguments import OutputArguments, add_output_options, integer, positive
from harness.commands.base.output import print_path, print_tables
from harness.core.config import merge, parse, read_toml
from harness.core.errors import HarnessError, RunError, RunFolderError
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import evaluate
from harness.reports.report import tables_of, write_report
from harness.runs.folder import RunIdentity, RunWriter
from harness.runs.jsonl import read_lines

if TYPE_CHECKING:
    from harness.trainers.config import TrainConfig

EXAMPLE = "harness demo --out runs/demo"
STEPS = 160
MODEL = "countdown-tiny"
TEMPERATURES = (1.0, 0.6)
N_SAMPLES, N_PROBLEMS = 64, 96
CHECKPOINT_EVERY_STEPS = 10  # writing a checkpoint of so small a model takes an eighth of a step
WATCH_EVERY_S = 0.5


class Arguments(OutputArguments):
    out: Path
    steps: int
    seed: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where everything goes")
    parser.add_argument("--steps", type=positive, default=STEPS, help=f"of training, each arm (default: {STEPS})")
    parser.add_argument("--seed", type=integer, default=0, help="of the training (default: 0)")
    add_output_options(parser)


def run(args: Arguments) -> int:
    folders = run_demo(args.out, args.steps, args.seed, Progress(quiet=args.quiet))
    trained = sorted(args.out.glob("train-*"))
    files = write_report([*folders, *trained], args.out / "report", None)
    print_tables(args, tables_of(folders, ["results"]))
    print_path(args, "report", files.markdown)
    return DONE


@dataclass(frozen=True, slots=True)
class Arm:
    """A method to train with. Without a recipe the base model is evaluated as it is."""

    name: str
    recipe: str | None


ARMS = (Arm("base", None), Arm("grpo", "countdown-grpo"), Arm("flowrl", "countdown-flowrl"))
# The two processes take about as long: GRPO needs no reference pass, and the base is not trained.
LANES = (("grpo", "base"), ("flowrl",))


@dataclass(frozen=True, slots=True)
class Demo:
    """The folder of the demo, and the settings that all arms share."""

    folder: Path
    steps: int
    seed: int
    n_problems: int

    def train_folder(self, arm: Arm) -> Path:
        return self.folder / f"train-{arm.name}"

    def eval_folders(self, arm: Arm) -> Mapping[float, Path]:
        """Return the folder of each evaluation by its temperature."""
        name = arm.name if arm.recipe is None else f"{arm.name}-{self.steps}"
        return {temperature: self.folder / f"{name}-T{temperature:g}" for temperature in TEMPERATURES}

    def train_config(self, arm: Arm) -> TrainConfig:
        from harness.trainers.config import TrainConfig

        assert arm.recipe is not None, f"the arm {arm.name} is not trained"
        settings = {
            "loop": {"steps": self.steps},
            "seed": self.seed,
            "checkpoint": {"every_steps": CHECKPOINT_EVERY_STEPS},
        }
        return parse(TrainConfig, merge(read_toml(find_config(arm.recipe)), settings))

    def eval_config(self, arm: Arm, temperature: float) -> EvalConfig:
        settings = {
            "model": {"path": MODEL if arm.recipe is None else str(self.train_folder(arm))},
            "tasks": ["countdown"],
            "sampling": {"temperature": temperature},
            "n": N_SAMPLES,
            "limit": self.n_problems,
            "metrics": [{"id": "pass_at_k", "ks": [1, 4, 16, 64]}, {"id": "distinct_at_k", "ks": [16, 64]}],
        }
        return parse(EvalConfig, settings)


def run_demo(
    folder: Path, steps: int, seed: int, progress: Progress, *, n_problems: int = N_PROBLEMS
) -> Sequence[Path]:
    """Train GRPO and FlowRL from the bundled base on countdown and evaluate all three on held-out problems.

    Returns the folders of the evaluations, arm by arm.
    """
    demo = Demo(folder, steps, seed, n_problems)
    _check_folders(demo)
    progress.say(f"training grpo and flowrl side by side, {steps} steps each, and evaluating them and the base")
    lanes = [[arm for name in names for arm in ARMS if arm.name == name] for names in LANES]
    with _running(demo, lanes) as processes:
        _watch(processes, demo, progress)
    return [eval_folder for arm in ARMS for eval_folder in demo.eval_folders(arm).values()]


def _check_folders(demo: Demo) -> None:
    """Refuse before any arm begins whatever one of them would refuse about its folders; create the demo's folder."""
    if demo.folder.is_file():
        raise RunFolderError(f"{demo.folder} is a file; choose another --out")
    for arm in ARMS:
        if arm.recipe is not None and demo.train_folder(arm).exists():
            from harness.trainers.checks import check_steps  # only now, since it imports torch

            identity = RunIdentity.of("train", demo.train_config(arm), seeds={}, data={})
            RunWriter.check(demo.train_folder(arm), identity)
            check_steps(demo.train_folder(arm), demo.steps)
        for temperature, eval_folder in demo.eval_folders(arm).items():
            identity = RunIdentity.of("eval", demo.eval_config(arm, temperature), seeds={}, data={})
            RunWriter.check(eval_folder, identity)
    try:
        demo.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{demo.folder} can't be created: {error.strerror}; choose another --out") from None


# --- processes --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _running(demo: Demo, lanes: Sequence[Sequence[Arm]]) -> Iterator[Sequence[BaseProcess]]:
    """Run a process for each lane. Raise when one has failed, after all have ended."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores if cores is not None else 1) // len(lanes))
    context = multiprocessing.get_context("spawn")
    failures: SimpleQueue[str] = context.SimpleQueue()
    processes = [context.Process(target=_run_lane, args=(demo, lane, threads, failures)) for lane in lanes]
    try:
        for process in processes:
            process.start()
        yield processes
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()  # no effect on those that have ended
            process.join()
    if not failures.empty():
        raise RunError(failures.get())
    if any(process.exitcode != 0 for process in processes):
        raise RunError(f"a process ended by itself, with exit code {max(p.exitcode or 0 for p in processes)}")


def _run_lane(demo: Demo, arms: Sequence[Arm], threads: int, failures: SimpleQueue[str]) -> None:
    """Train and evaluate one arm after the other, in a process of its own."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    quiet = Progress(quiet=True)
    for arm in arms:
        try:
            if arm.recipe is not None:
                from harness.trainers.train import train

                train(demo.train_config(arm), demo.train_folder(arm), quiet)
            for temperature, eval_folder in demo.eval_folders(arm).items():
                evaluate(demo.eval_config(arm, temperature), eval_folder, quiet)
        except HarnessError as error:
            failures.put(f"the arm {arm.name!r} failed: {error}")
            raise SystemExit(FAILED) from None
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


def _exit_with_parent() -> None:
    """Exit when the parent does: a parent that is killed can't end its children, and they hold the run folders."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a lane runs in a process that was started for it"
    parent.join()
    os._exit(FAILED)


# --- progress ---------------------------------------------------------------------------------------------------


def _watch(processes: Sequence[BaseProcess], demo: Demo, progress: Progress) -> None:
    """Show the steps of all arms together with each arm's newest reward, then the completions of all evaluations."""
    trained = [arm for arm in ARMS if arm.recipe is not None]
    eval_folders = [eval_folder for arm in ARMS for eval_folder in demo.eval_folders(arm).values()]

    def count_steps() -> tuple[int, Mapping[str, float]]:
        rows = {arm.name: list(read_lines(demo.train_folder(arm) / "steps.jsonl")) for arm in trained}
        rewards = {f"{name} reward": row[-1]["reward"] for name, row in rows.items() if row}
        return sum(map(len, rows.values())), rewards

    def count_completions() -> tuple[int, Mapping[str, float]]:
        return sum(_n_lines(eval_folder / "completions.jsonl") for eval_folder in eval_folders), {}

    _follow(processes, progress, "train", demo.steps * len(trained), count_steps)
    _follow(processes, progress, "evaluate", N_SAMPLES * demo.n_problems * len(eval_folders), count_completions)


def _follow(
    processes: Sequence[BaseProcess],
    progress: Progress,
    title: str,
    total: int,
    count: Callable[[], tuple[int, Mapping[str, float]]],
) -> None:
    """Show progress on one kind of work until all of it is done or every process has ended."""
    n_done, figures = count()
    progress.begin(title, total, n_done)
    while n_done < total and any(process.is_alive() for process in processes):
        time.sleep(WATCH_EVERY_S)
        n_before, (n_done, figures) = n_done, count()
        progress.advance(n_done - n_before, figures)
    progress.end()


def _n_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
