"""The demo is a study that its commands could run, says what one seed proves, and resumes."""

from __future__ import annotations

import json
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from training import assert_same_evaluation, assert_same_run, run

from harness.cli import main
from harness.commands import demo
from harness.commands.demo import run_demo, study_file
from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.evaluation.loop import EvalConfig, evaluate
from harness.runs.folder import RunReader
from harness.study.config import StudyConfig
from harness.trainers.config import TrainConfig

QUIET = Progress(quiet=True)
ARMS = ("base", "flowrl", "grpo", "grpo-kl")


def cells(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "cells").rglob("run.json") if path.parent.name.startswith("count"))


def recipe(name: str, steps: int) -> TrainConfig:
    ours = {"loop": {"steps": steps}, "checkpoint": {"every_steps": 1, "keep": 3}}
    return configs.parse(TrainConfig, configs.merge(configs.read_toml(find_config(name)), ours))


def test_the_demo_prints_what_one_seed_proves_and_equals_its_cells_run_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "N_PROBLEMS", 2)
    assert main(["demo", "--steps", "2", "--out", "demo", "--json", "--quiet"]) == 0
    frontier, matched = json.loads(capsys.readouterr().out)
    assert [row["arm"] for row in frontier["rows"]] == [*(["base"] * 2), *(arm for arm in ARMS[1:] for _ in range(4))]
    assert (matched["rows"][0]["arm"], matched["rows"][0]["against"]) == ("grpo", "flowrl")
    for table in (frontier, matched):
        assert any(note.startswith("ONE SEED of each arm proves nothing about the methods.") for note in table["notes"])
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    ET.fromstring(Path("demo/frontier.svg").read_text())
    report = Path("demo/report/report.md").read_text()
    assert "Distinct solutions at equal pass@1" in report and "Exact metrics of countdown" in report
    assert Path("demo/page/report.html").exists()

    found = cells(Path("demo"))
    assert len(found) == 2 + 3 * 2 * 2 and all(RunReader.read(folder).record.status == "done" for folder in found)
    trained = Path("demo/cells/grpo/seed-0/train")
    config = configs.parse(TrainConfig, RunReader.read(trained).config())
    assert config.loop.steps == 2 and config.objective == recipe("countdown-grpo", 2).objective
    run(config, tmp_path / "train")
    assert_same_run(tmp_path / "train", trained)
    cell = next(folder for folder in found if folder.match("grpo/seed-0/step-000002/*T0.6*"))
    evaluate(configs.parse(EvalConfig, RunReader.read(cell).config()), tmp_path / "cell", QUIET)
    assert_same_evaluation(tmp_path / "cell", cell)

    assert main(["demo", "--steps", "2", "--out", "demo", "--json", "--quiet"]) == 0
    changed = [path for path, time in made.items() if "cells" in path.parts and path.stat().st_mtime_ns != time]
    assert changed == []


def test_an_arm_that_fails_is_named_and_the_others_are_finished(tmp_path, capsys):
    file = study_file(1, 0, n_problems=2)
    assert not run_demo(file, tmp_path, QUIET)[0].failures
    (weights, *_) = (tmp_path / "cells" / "flowrl" / "seed-0" / "train").glob("checkpoints/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    for folder in cells(tmp_path):
        if folder.match("flowrl/*/*/*"):
            (folder / "run.json").unlink()
            for path in folder.iterdir():
                path.unlink()
    ending, curves = run_demo(file, tmp_path, QUIET)
    failures = ending.failures
    assert failures and all(label.startswith("flowrl seed 0") for label in failures)
    assert any("does not have the digest" in reason for reason in failures.values())
    assert {"base", "grpo", "grpo-kl"} <= set(curves.arms)


def test_the_full_demo_has_five_methods_and_two_seeds():
    config = configs.parse(StudyConfig, tomllib.loads(study_file(160, 3, full=True)))
    assert list(config.arms) == ["grpo", "flowrl", "grpo-kl", "ppo", "reinforce_pp"] and config.seeds == (3, 4)
    short = configs.parse(StudyConfig, tomllib.loads(study_file(1, 0)))
    assert short.checkpoints == (1,) and short.seeds == (0,) and len(short.arms) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed is at least 0, not -1"),
        (["--out", "mine/notes.txt"], "mine/notes.txt is a file; choose another --out"),
        (["--out", "mine"], "train exists and is not a run folder"),
        (["--out", "mine/notes.txt/demo"], "mine/notes.txt"),
        (["--out", "run"], "run is a run, and a study needs a folder of its own"),
    ],
)
def test_the_demo_refuses_unusable_folders_before_any_arm_begins(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "cells" / "grpo" / "seed-0" / "train").mkdir(parents=True)
    for notes in ("mine/notes.txt", "mine/cells/grpo/seed-0/train/notes.txt"):
        (tmp_path / notes).write_text("no run folder")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
