"""Run folders of the version before the redesign (commit 3c70f0c): reported, compared and graded, never resumed."""

import json
import shutil
from pathlib import Path

import pytest

from harness.cli import main
from harness.runs.folder import RunReader
from harness.runs.jsonl import read_lines

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def verdict_rows(folder):
    return list(read_lines(folder / "verdicts.jsonl"))


def test_old_runs_are_reported(old, tmp_path):
    out = tmp_path / "report"
    assert main(["report", str(old / "eval-a"), str(old / "eval-b"), str(old / "train"), f"--out={out}"]) == 0
    text = (out / "report.md").read_text()
    assert "| eval-a | countdown-tiny | - | countdown | test | 4 | 1 | 0.167 [0.000, 0.250] |" in text
    assert "| eval-b | countdown-tiny | - | countdown | test | 4 | 1 | 0.250 [0.000, 0.500] |" in text
    assert len((out / "training.csv").read_text().splitlines()) == 2


def test_old_runs_are_compared(old, capsys):
    assert main(["compare", str(old / "eval-a"), str(old / "eval-b"), "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    first = table["rows"][0]
    assert (first["metric"], first["first"], first["second"]) == ("avg", pytest.approx(1 / 6), 0.25)


def without_intervals(estimates):
    """The methods of intervals have changed; values and counts have not."""
    counts = ("name", "value", "n_problems", "n_completions", "n_ungraded")
    return {task: [[getattr(e, key) for key in counts] for e in of_task] for task, of_task in estimates.items()}


def test_an_old_run_is_graded_again_with_the_same_result(old):
    folder = old / "eval-a"
    before, estimates = verdict_rows(folder), RunReader.read(folder).estimates()
    assert main(["grade", str(folder)]) == 0
    assert verdict_rows(folder) == [*before, *before]
    assert without_intervals(RunReader.read(folder).estimates()) == without_intervals(estimates)
    assert RunReader.read(folder).status == "done"


def test_an_old_run_is_graded_by_another_grader(old):
    assert main(["grade", str(old / "eval-a"), "--grader", "legacy_dapo"]) == 3, "it can't grade countdown"
    assert RunReader.read(old / "eval-a").graders() == ["countdown", "legacy_dapo"]


def test_an_old_run_is_graded_without_its_engine_and_its_model(old):
    path = old / "eval-a" / "config.toml"
    text = path.read_text().replace("batch_rows", "removed_option").replace("countdown-tiny", "lost-model")
    path.write_text(text.replace('id = "hf"', 'id = "removed_engine"'))
    assert main(["grade", str(old / "eval-a")]) == 0
    assert path.read_text().count("removed") == 2, "grading leaves the config as it is"


def test_resuming_an_old_training_run_names_the_removed_keys(old, capsys):
    settings = ("loop.steps=2", "loop.prompts_per_step=2", "loop.samples_per_prompt=2", "held_out.every_steps=0")
    words = [word for setting in settings for word in ("--set", setting)]
    before = {path: path.read_bytes() for path in (old / "train").iterdir()}
    assert main(["train", "countdown-flowrl", *words, "--out", str(old / "train")]) == 2
    message = capsys.readouterr().err
    assert "loop.recall_bytes" in message
    assert {path: path.read_bytes() for path in (old / "train").iterdir()} == before


def test_an_old_run_is_compared_with_one_that_records_more_about_the_data(old, capsys):
    copy = old / "again"
    shutil.copytree(old / "eval-a", copy)
    record = json.loads((copy / "run.json").read_text())
    record["data"]["countdown"]["released"] = "2024-09"
    (copy / "run.json").write_text(json.dumps(record))
    assert main(["compare", str(old / "eval-a"), str(copy)]) == 0
    assert "NOT ALIKE" not in capsys.readouterr().out
