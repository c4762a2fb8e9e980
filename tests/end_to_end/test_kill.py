"""Runs killed with SIGKILL at random moments, or by a full disk, and resumed: the result is that of an unbroken run."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training import assert_same_evaluation, assert_same_run, recipe

from harness.core import config as configs
from harness.core.errors import DiskError
from harness.core.progress import Progress
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import evaluate
from harness.runs.folder import RunReader
from harness.trainers.train import train

KILLS = [5, pytest.param(20, marks=pytest.mark.slow)]


def kill_until_done(work: Callable[[Path], Any], folders: Path, kills: int, seed: int) -> list[Path]:
    """Run `work(folder)` in children killed at random moments until `kills` have hit, over as many folders as needed.

    Children are forked, so that each begins with everything imported and a kill falls on the work itself.
    """
    torch.set_num_threads(1)  # a forked child must not inherit a pool of threads
    context, chance = multiprocessing.get_context("fork"), random.Random(seed)
    began = time.monotonic()
    work(folders / "unbroken")
    whole_s = time.monotonic() - began
    finished, n_kills = [], 0
    while n_kills < kills:
        folder = folders / f"broken-{len(finished)}"
        while True:
            child = context.Process(target=work, args=(folder,))
            child.start()
            child.join(chance.uniform(0, whole_s) if n_kills < kills else None)
            if child.exitcode is not None:
                assert child.exitcode == 0
                break
            child.kill()
            child.join()
            n_kills += 1
        finished.append(folder)
    return finished


@pytest.mark.parametrize("kills", KILLS)
def test_killed_training_ends_like_an_unbroken_run_to_the_bit(kills: int, tmp_path: Path) -> None:
    config = recipe("countdown-flowrl", loop={"steps": 8}, held_out={"every_steps": 4, "limit": 3, "n": 2})

    def work(folder: Path) -> None:
        train(config, folder, Progress(quiet=True))

    for folder in kill_until_done(work, tmp_path, kills, seed=1):
        assert_same_run(tmp_path / "unbroken", folder)
        assert RunReader.read(folder).record.status == "done"
        for step in ("step-000004", "step-000008"):
            assert_same_evaluation(tmp_path / "unbroken" / "evals" / step, folder / "evals" / step)


@pytest.mark.parametrize("kills", KILLS)
def test_killed_evaluation_ends_like_an_unbroken_run(kills: int, tmp_path: Path) -> None:
    settings = {"model": {"path": "countdown-tiny"}, "tasks": ["countdown"], "n": 8, "limit": 60}
    config = configs.parse(EvalConfig, {**settings, "engine": {"id": "hf", "batch_rows": 40}})

    def work(folder: Path) -> None:
        evaluate(config, folder, Progress(quiet=True))

    for folder in kill_until_done(work, tmp_path, kills, seed=2):
        assert_same_evaluation(tmp_path / "unbroken", folder)


@pytest.mark.parametrize("largest_file", [1_000_000, 2_000_000, 900])
def test_full_disk_stops_training_with_a_clear_error_and_loses_nothing(largest_file: int, tmp_path: Path) -> None:
    """A file size limit stands for the disk; the model file, the state file or the step rows reach it."""
    torch.set_num_threads(1)  # as in the child: another number of threads rounds otherwise
    config = recipe("countdown-flowrl", loop={"steps": 4})
    train(config, tmp_path / "unbroken", Progress(quiet=True))
    train(recipe("countdown-flowrl", loop={"steps": 1}), tmp_path / "broken", Progress(quiet=True))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
        try:
            train(config, tmp_path / "broken", Progress(quiet=True))
        except DiskError as error:
            os._exit(7 if "could not write" in str(error) and "resume" in str(error) else 8)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 7
    assert not list((tmp_path / "broken" / "checkpoints").glob("*.tmp"))
    train(config, tmp_path / "broken", Progress(quiet=True))
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
