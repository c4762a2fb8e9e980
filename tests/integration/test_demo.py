"""The demo is what its commands would do one after the other, and names the arm that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from test_kill import assert_same_evaluation
from test_training import assert_same_run, run

from harness.core import config as configs
from harness.core.errors import RunError
from harness.core.progress import Progress
from harness.core.store import RunView
from harness.evaluate import EvalConfig, evaluate
from harness.show import find_config
from harness.study import demo
from harness.trainers.settings import TrainConfig

QUIET = Progress(quiet=True)


def test_the_demo_gives_what_its_parts_give_alone_and_once(tmp_path: Path) -> None:
    folders = demo(tmp_path / "demo", 2, 0, QUIET, limit=1)
    names = [f"{arm}-T{temperature}" for arm in ("base", "grpo-2", "flowrl-2") for temperature in ("1", "0.6")]
    assert [folder.name for folder in folders] == names
    assert all(RunView.read(folder).record.status == "done" for folder in folders)

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))  # another number of threads rounds otherwise
    recipe = configs.merge(configs.read_toml(find_config("countdown-grpo")), {"loop": {"steps": 2}})
    run(configs.parse(TrainConfig, recipe), tmp_path / "train")
    assert_same_run(tmp_path / "train", tmp_path / "demo" / "train-grpo")
    cell = configs.parse(EvalConfig, RunView.read(folders[3]).config())
    assert (cell.model.path, cell.n, cell.sampling.temperature) == (str(tmp_path / "demo" / "train-grpo"), 64, 0.6)
    evaluate(cell, tmp_path / "cell", QUIET)
    assert_same_evaluation(tmp_path / "cell", folders[3])

    made = [(folder / "completions.jsonl").read_bytes() for folder in folders]
    assert demo(tmp_path / "demo", 2, 0, QUIET, limit=1) == folders
    assert [(folder / "completions.jsonl").read_bytes() for folder in folders] == made


def test_an_arm_that_fails_is_named_and_the_other_is_finished(tmp_path: Path) -> None:
    (tmp_path / "train-flowrl").mkdir()
    (tmp_path / "train-flowrl" / "mine.txt").write_text("no run folder")
    with pytest.raises(RunError, match=r"the arm 'flowrl' failed: .* is not a run folder"):
        demo(tmp_path, 1, 0, QUIET, limit=1)
    assert RunView.read(tmp_path / "grpo-1-T0.6").record.status == "done"
