"""Every arm tries as many settings, the best one by the rule is its own, and no choice reads a reported problem."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.cli import main
from harness.core.errors import ConfigError, RunError
from harness.runs.folder import RunReader
from harness.study.study import Study, open_study
from harness.study.tuning import check_splits, choose

TOP = """
name = "s"
base = "countdown-tiny"
steps = 2
seeds = [1]
draws = 1
n = 2
limit = 4
temperatures = [0.6]
controls = { grpo_kl = 0, evaluation = false }
common.loop = { prompts_per_step = 2, samples_per_prompt = 4 }
"""
TUNING = """
[tuning]
budget = 2
steps = 1
n = 2
limit = 8
grid.grpo = { "optimizer.lr" = [1e-5, 5e-3] }
grid.flowrl = { beta = [0.3, 0.6] }
"""
ARMS = """
[arms.grpo]
recipe = "countdown-grpo"

[arms.flowrl]
recipe = "countdown-flowrl"
"""


def opened(tmp_path: Path, text: str) -> Study:
    (tmp_path / "s.toml").write_text(TOP + text)
    return open_study(tmp_path / "s.toml", tmp_path / "out")


def test_the_chosen_settings_are_the_best_on_validation_and_all_are_on_record(tmp_path: Path, capsys) -> None:
    opened(tmp_path, TUNING + ARMS)
    command = ["study", str(tmp_path / "s.toml"), "--out", str(tmp_path / "out"), "--quiet", "--parallel", "1"]
    assert main(command) == 0
    record = json.loads((tmp_path / "out/tuning.json").read_text())
    assert [(row["arm"], row["trial"]) for row in record["trials"]] == [
        ("grpo", 1),
        ("grpo", 2),
        ("flowrl", 1),
        ("flowrl", 2),
    ]
    assert (record["rule"], record["split"], record["budget"]) == ("largest pass@1", "validation", 2)
    for arm, key in (("grpo", "optimizer.lr"), ("flowrl", "objective.beta")):
        rows = [row for row in record["trials"] if row["arm"] == arm]
        best = max(rows, key=lambda row: (row["pass@1"], -row["trial"]))
        assert [row["chosen"] for row in rows] == [row is best for row in rows]
        config = RunReader.read(tmp_path / f"out/cells/{arm}/seed-1/train").config()
        section, name = key.split(".")
        assert config[section][name] == best["settings"][key]
    run = RunReader.read(next((tmp_path / "out/tuning/grpo/trial-01").glob("countdown*")))
    assert (run.config()["split"], run.config()["limit"]) == ("validation", 8)
    value = {e.name: e.value for e in run.estimates()["countdown"]}["pass@1"]
    assert record["trials"][0]["pass@1"] == value
    assert "Tuning" in (tmp_path / "out/report/report.md").read_text()
    capsys.readouterr()
    assert main(command) == 0
    assert "0 jobs run, 13 were done, 0 failed" in capsys.readouterr().out


def test_a_trial_without_result_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = opened(tmp_path, TUNING + ARMS).trials
    values = {("grpo", 1): 0.5, ("grpo", 2): 0.5, ("flowrl", 1): None, ("flowrl", 2): 0.1}
    monkeypatch.setattr(type(trials[0]), "value", lambda trial, _rule: values[trial.arm, trial.number])
    assert {arm: trial.number for arm, trial in choose(trials, "pass@1").items()} == {"grpo": 1, "flowrl": 2}
    values["flowrl", 2] = None
    with pytest.raises(RunError, match="all trials of the arm 'flowrl' failed"):
        choose(trials, "pass@1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TUNING.replace("[0.3, 0.6]", "[0.3, 0.6, 1]"), "the arm 'flowrl' tries 3 settings and tuning.budget is 2"),
        (TUNING.replace("grid.flowrl = { beta = [0.3, 0.6] }", ""), "the arm 'flowrl' tries 1 settings"),
        (TUNING.replace("grid.flowrl", "grid.flow"), "tuning.grid has 'flow', which is not an arm"),
        (TUNING.replace("[0.3, 0.6]", "[0.3, 0.3]"), "needs a list of different values"),
        (TUNING.replace("steps = 1", "seed = 1"), "tuning.seed = 1 is one of seeds"),
        (TUNING.replace("steps = 1", "split = 'test'"), "tuning.split and split are both 'test'"),
        (TUNING.replace("budget = 2", ""), "there is a grid and no budget"),
    ],
)
def test_an_unequal_budget_or_a_choice_on_the_result_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        opened(tmp_path, text + ARMS)


def test_a_reported_problem_that_tuning_reads_is_refused(tmp_path: Path) -> None:
    study = opened(tmp_path, TUNING + ARMS)
    reported = study.cells.groups[0].evaluations[0].tree
    check_splits(study.trials[0], [reported])
    with pytest.raises(ConfigError, match="tuning reads problems of countdown that the study reports"):
        check_splits(study.trials[0], [{**reported, "split": "validation", "limit": 1}])
