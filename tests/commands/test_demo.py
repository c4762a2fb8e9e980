"""The demo is what its commands would do one after the other, and names the arm that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from training import assert_same_evaluation, assert_same_run, run

from harness.cli import main
from harness.commands.demo import run_demo
from harness.core import config as configs
from harness.core.errors import RunError
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.evaluation.loop import EvalConfig, evaluate
from harness.runs.folder import RunReader
from harness.trainers.config import TrainConfig

QUIET = Progress(quiet=True)


@pytest.mark.slow
def test_the_demo_equals_its_commands_run_alone_and_repeats_none(tmp_path: Path) -> None:
    folders = run_demo(tmp_path / "demo", 2, 0, QUIET, n_problems=1)
    names = [f"{arm}-T{temperature}" for arm in ("base", "grpo-2", "flowrl-2") for temperature in ("1", "0.6")]
    assert [folder.name for folder in folders] == names
    assert all(RunReader.read(folder).record.status == "done" for folder in folders)

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))  # another number of threads rounds otherwise
    recipe = configs.merge(configs.read_toml(find_config("countdown-grpo")), {"loop": {"steps": 2}})
    run(configs.parse(TrainConfig, recipe), tmp_path / "train")
    assert_same_run(tmp_path / "train", tmp_path / "demo" / "train-grpo")
    cell = configs.parse(EvalConfig, RunReader.read(folders[3]).config())
    assert (cell.model.path, cell.n, cell.sampling.temperature) == (str(tmp_path / "demo" / "train-grpo"), 64, 0.6)
    evaluate(cell, tmp_path / "cell", QUIET)
    assert_same_evaluation(tmp_path / "cell", folders[3])

    made = [(folder / "completions.jsonl").read_bytes() for folder in folders]
    assert run_demo(tmp_path / "demo", 2, 0, QUIET, n_problems=1) == folders
    assert [(folder / "completions.jsonl").read_bytes() for folder in folders] == made


def test_an_arm_that_fails_is_named_and_the_other_is_finished(tmp_path: Path) -> None:
    ours = {"loop": {"steps": 1}, "checkpoint": {"every_steps": 10}}
    recipe = configs.merge(configs.read_toml(find_config("countdown-flowrl")), ours)
    run(configs.parse(TrainConfig, recipe), tmp_path / "train-flowrl")
    (weights,) = (tmp_path / "train-flowrl" / "checkpoints").glob("*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(
        RunError, match=r"arm 'flowrl' failed: .*step-000001/model.safetensors does not have the digest"
    ):
        run_demo(tmp_path, 2, 0, QUIET, n_problems=1)
    assert RunReader.read(tmp_path / "grpo-2-T0.6").record.status == "done"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "train-flowrl has 2 steps already, more than loop.steps = 1; ask for more"),
        (
            ["--seed", "7"],
            "train-flowrl belongs to another config; choose another --out, or undo: seed: 0 there, 7 now",
        ),
        (["--out", "mine"], "train-grpo exists and is not a run folder"),
        (["--out", "mine/notes.txt"], "mine/notes.txt is a file; choose another --out"),
        (["--out", "mine/notes.txt/demo"], "mine/notes.txt/demo/base-T1 would be inside a file"),
    ],
)
def test_the_demo_refuses_unusable_folders_before_any_arm_begins(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "train-grpo").mkdir(parents=True)
    for notes in ("mine/notes.txt", "mine/train-grpo/notes.txt"):
        (tmp_path / notes).write_text("no run folder")
    recipe = configs.merge(configs.read_toml(find_config("countdown-flowrl")), {"loop": {"steps": 2}})
    run(configs.parse(TrainConfig, recipe), tmp_path / "runs" / "demo" / "train-flowrl")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
