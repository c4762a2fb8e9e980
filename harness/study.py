"""Arms x seeds: train, evaluate, report, resumable cell by cell. The demo is the one study there is so far.

A cell is a run folder, so a study that was stopped goes on where it was, and one that is done only reports. Arms
train side by side, each in a process of its own with its share of the cores; they are watched through their folders.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.errors import RunError
from harness.core.journal import read_lines
from harness.core.progress import Progress
from harness.evaluate import EvalConfig, evaluate

WATCH_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train, or none: `recipe` None evaluates the base model as it is."""

    name: str
    recipe: str | None


DEMO_MODEL = "countdown-tiny"
DEMO_ARMS = (Arm("base", None), Arm("grpo", "countdown-grpo"), Arm("flowrl", "countdown-flowrl"))
DEMO_TEMPERATURES = (1.0, 0.6)


def demo(folder: Path, steps: int, seed: int, progress: Progress) -> Sequence[Path]:
    """Train GRPO and FlowRL from the bundled base on countdown and evaluate all three on held-out problems.

    Returns the folders of the evaluations, arm by arm.
    """
    trained = {arm.name: arm for arm in DEMO_ARMS if arm.recipe is not None}
    progress.say(f"training {' and '.join(trained)} side by side, {steps} steps each")
    train_arms(list(trained.values()), folder, {"loop.steps": steps, "seed": seed}, progress)
    evaluations = []
    for arm in DEMO_ARMS:
        model = DEMO_MODEL if arm.recipe is None else str(train_folder(folder, arm))
        for temperature in DEMO_TEMPERATURES:
            settings = configs.parse(EvalConfig, _demo_evaluation(model, temperature))
            progress.say(f"evaluating {arm.name} at temperature {temperature:g}")
            cell = f"{arm.name}-{steps}-T{temperature:g}" if arm.recipe is not None else f"{arm.name}-T{temperature:g}"
            evaluations.append(evaluate(settings, folder / cell, progress).folder)
    return evaluations


def train_folder(folder: Path, arm: Arm) -> Path:
    return folder / f"train-{arm.name}"


def train_arms(arms: Sequence[Arm], folder: Path, settings: Mapping[str, int], progress: Progress) -> None:
    """Every arm's `harness train`, at once. Raises when one fails, after all have ended."""
    folder.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores if cores is not None else 1) // len(arms))
    processes = {arm.name: _start(arm, train_folder(folder, arm), settings, threads) for arm in arms}
    try:
        _watch(processes, [train_folder(folder, arm) for arm in arms], settings["loop.steps"], progress)
    finally:
        for process in processes.values():
            process.terminate()  # those that have ended are not touched
    for name, process in processes.items():
        _, errors = process.communicate()
        if process.returncode != 0:
            reason = errors.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
            raise RunError(f"training the arm {name!r} failed: {reason[0]}")


def _start(arm: Arm, folder: Path, settings: Mapping[str, int], threads: int) -> subprocess.Popen[str]:
    assert arm.recipe is not None
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "harness", "train", arm.recipe, "--out", str(folder), "--quiet", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _watch(
    processes: Mapping[str, subprocess.Popen[str]], folders: Sequence[Path], steps: int, progress: Progress
) -> None:
    """Show the steps of all arms together, and each arm's newest reward, until every process has ended."""
    seen = 0
    progress.begin("train", steps * len(processes))
    while any(process.poll() is None for process in processes.values()):
        time.sleep(WATCH_EVERY_S)
        rows = [list(read_lines(folder / "steps.jsonl")) for folder in folders]
        newest = {name: row[-1]["reward"] for name, row in zip(processes, rows, strict=True) if row}
        progress.advance(sum(map(len, rows)) - seen, {f"{name} reward": reward for name, reward in newest.items()})
        seen = sum(map(len, rows))
    progress.end()


def _demo_evaluation(model: str, temperature: float) -> Mapping[str, Any]:
    return {
        "model": {"path": model},
        "tasks": ["countdown"],
        "sampling": {"temperature": temperature},
        "n": 64,
        "limit": 96,
        "metrics": [{"id": "pass_at_k", "ks": [1, 4, 16, 64]}, {"id": "distinct_at_k", "ks": [16, 64]}],
    }
