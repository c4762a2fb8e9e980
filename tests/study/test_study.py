"""A study runs what is new and nothing twice, survives kills, and shows what fails."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from training import assert_same_run

from harness.cli import main
from harness.runs.folder import RunReader
from harness.study.counts import read_counts

SMALL = """
name = "small"
base = "countdown-tiny"
steps = {steps}
checkpoints = {checkpoints}
seeds = {seeds}
draws = 2
n = 2
limit = 4
temperatures = [0.6]
controls = {{ grpo_kl = 0, evaluation = {controls} }}
common.loop = {{ prompts_per_step = 2, samples_per_prompt = 4 }}

[arms.grpo]
recipe = "countdown-grpo"

[arms.flowrl]
recipe = "countdown-flowrl"
{more}
"""


def write(
    folder: Path,
    *,
    steps: int = 4,
    checkpoints: str = "[2, 4]",
    seeds: str = "[1, 2]",
    more: str = "",
    controls: str = "false",
) -> Path:
    path = folder / "small.toml"
    path.write_text(SMALL.format(steps=steps, checkpoints=checkpoints, seeds=seeds, more=more, controls=controls))
    return path


def study(path: Path, out: Path, *options: str, code: int = 0) -> None:
    assert main(["study", str(path), "--out", str(out), "--quiet", "--parallel", "1", *options]) == code


def times(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted((out / "cells").rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    study(write(folder), folder / "out")
    return folder / "out"


def test_a_study_has_a_run_folder_for_every_cell(unbroken: Path) -> None:
    frame = read_counts(unbroken / "counts.csv")
    cells = frame.groupby(["arm", "seed", "step", "draw"]).size()
    expected = {("base", 0, 0, draw) for draw in (1, 2)} | {
        (arm, seed, step, draw) for arm in ("grpo", "flowrl") for seed in (1, 2) for step in (2, 4) for draw in (1, 2)
    }
    assert set(cells.index) == expected
    assert set(cells) == {4}
    run = RunReader.read(unbroken / "cells/flowrl/seed-2/step-000002/countdown-T0.6-draw-1")
    assert run.config()["model"]["path"] == str(unbroken / "cells/flowrl/seed-2/train/checkpoints/step-000002")
    seeds = {
        RunReader.read(path.parent).config()["seed"] for path in (unbroken / "cells").glob("*/seed-*/step*/*/run.json")
    }
    assert seeds == {1001, 1002, 2001, 2002}  # draws of different trainings are independent, arms are paired


def test_a_study_that_is_killed_and_resumed_ends_like_an_unbroken_one(unbroken: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "study", str(write(tmp_path)), "--out", "out", "--parallel", "1"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        steps = tmp_path / "out/cells/flowrl/seed-1/train/steps.jsonl"
        while not (steps.exists() and steps.read_bytes().count(b"\n") >= 3):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    finished = tmp_path / "out/cells/base/countdown-T0.6-draw-1/completions.jsonl"
    before = finished.stat().st_mtime_ns
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert finished.stat().st_mtime_ns == before
    for arm in ("grpo", "flowrl"):
        for seed in (1, 2):
            assert_same_run(*(out / f"cells/{arm}/seed-{seed}/train" for out in (unbroken, tmp_path / "out")))
    pd.testing.assert_frame_equal(read_counts(unbroken / "counts.csv"), read_counts(tmp_path / "out/counts.csv"))


def test_a_study_that_is_done_runs_nothing(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(unbroken)
    study(unbroken.parent / "small.toml", unbroken)
    assert "0 jobs run, 13 were done, 0 failed" in capsys.readouterr().out
    assert times(unbroken) == before


def test_a_study_that_has_grown_runs_only_what_is_new(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More seeds, an arm, a later checkpoint, and an earlier one that was not kept."""
    before = times(unbroken)
    old = read_counts(unbroken / "counts.csv")
    more = '[arms.gspo]\nrecipe = "countdown-gspo"\n'
    study(write(unbroken.parent, steps=5, checkpoints="[1, 2, 5]", seeds="[1]", more=more), unbroken)
    # trainings: two go on to step 5, one is new; evaluations: step 1 and 5 of two arms, three of the new one
    assert "10 jobs run, 3 were done, 0 failed" in capsys.readouterr().out
    new = read_counts(unbroken / "counts.csv")
    assert set(zip(new["arm"], new["step"], strict=True)) == {("base", 0)} | {
        (arm, step) for arm in ("grpo", "flowrl", "gspo") for step in (1, 2, 5)
    }
    shared = ["arm", "seed", "step", "draw", "problem"]
    both = old.merge(new, on=shared, suffixes=("_old", "_new"))
    assert len(both) == 2 * 4 + 2 * 2 * 4 and (both["solutions_old"] == both["solutions_new"]).all()
    # Cells that the file no longer has stay as they are, and so do those that it has still.
    kept = [path for path in before if "/train/" not in str(path)]
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)


def test_a_cell_that_fails_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = '[arms.wild]\nrecipe = "countdown-grpo"\nset = { "optimizer.lr" = 1e30 }\n'
    path = write(tmp_path, steps=2, checkpoints="[2]", seeds="[1]", more=more)
    study(path, tmp_path / "out", code=1)
    printed = capsys.readouterr()
    assert "7 jobs run, 0 were done, 2 failed" in printed.out
    assert "wild seed 1 FAILED: the gradient is not finite" in printed.err
    assert "the same command runs again what failed: wild seed 1, wild seed 1 step 2" in printed.err
    assert set(read_counts(tmp_path / "out/counts.csv")["arm"]) == {"base", "grpo", "flowrl"}
    study(path, tmp_path / "out", code=1)
    assert "2 jobs run, 5 were done, 2 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_cell_and_is_replaced(tmp_path: Path, capsys) -> None:
    begun = tmp_path / "out/cells/grpo/seed-1/train/run.json"

    def kill() -> None:
        while not begun.exists():
            time.sleep(0.01)
        (worker,) = multiprocessing.active_children()
        worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    path = write(tmp_path, steps=30, checkpoints="[30]", seeds="[1]")
    study(path, tmp_path / "out", code=1)
    killer.join()
    assert "grpo seed 1 FAILED: its process was killed by signal 9, as the system does when memory" in (
        capsys.readouterr().err
    )
    assert set(read_counts(tmp_path / "out/counts.csv")["arm"]) == {"base", "flowrl"}
    study(path, tmp_path / "out")
    assert set(read_counts(tmp_path / "out/counts.csv")["arm"]) == {"base", "grpo", "flowrl"}


@pytest.mark.slow
def test_a_full_disk_stops_the_study_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; the weights reach it, the evaluation of the base does not."""
    path = write(tmp_path, steps=1, checkpoints="[1]", seeds="[1]")
    command = [sys.executable, "-m", "harness", "study", str(path), "--out", "out", "--parallel", "1", "--quiet"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))  # noqa: E731
    full = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit)
    assert full.returncode == 1
    assert "could not write" in full.stderr and "the cells that are done stay" in full.stderr
    assert not (tmp_path / "out/cells/flowrl").exists()  # nothing else was begun
    base = tmp_path / "out/cells/base/countdown-T0.6-draw-1/run.json"
    before = base.stat().st_mtime_ns
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert base.stat().st_mtime_ns == before


def test_controls_are_run_for_each_arm_and_are_in_the_report(tmp_path: Path, capsys) -> None:
    path = write(tmp_path, steps=1, checkpoints="[1]", seeds="[1]", controls="true")
    study(path, tmp_path / "out")
    page = (tmp_path / "out/report/report.md").read_text()
    for arm in ("grpo", "flowrl"):
        assert f"## {arm}: controls of" in page
        assert {"trained", "base"} <= {run.parent.name for run in (tmp_path / "out/controls" / arm).glob("*/run.json")}
    capsys.readouterr()
    study(path, tmp_path / "out")
    assert "0 jobs run, 7 were done, 0 failed" in capsys.readouterr().out


def test_changed_arms_and_cells_of_another_version_are_named(unbroken: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("harness.study.study.code_version", lambda: "9.9")
    path = write(unbroken.parent, steps=5, checkpoints="[2]", seeds="[1]")
    study(path, unbroken)
    assert "finished cells are by version" in capsys.readouterr().err
    text = path.read_text()
    before = times(unbroken)
    path.write_text(text + "beta = 0.3\n")
    study(path, unbroken, code=2)
    assert (
        "flowrl/seed-1/train belongs to another config; choose another --out, or undo: objective.beta: 0.6 there"
        in (capsys.readouterr().err)
    )
    assert times(unbroken) == before
