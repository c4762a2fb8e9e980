"""Runs with another grader than the task's own, for evaluation and for rewards."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from harness.cli import main
from harness.core import config as configs
from harness.core.errors import ConfigError
from harness.evaluation.setup import grader_name, with_grader
from harness.graders.exact import ExactGrader
from harness.runs.folder import RunReader

GRADER = 'legacy_hendrycks(variant="lm-eval-math")'
REPLIES = ["It is 7.\nAnswer: 7", "So $\\boxed{7}$.", "Answer: 8", "nothing"]
EVAL = ["eval", "countdown-tiny", "--tasks", "gsm8k", "--engine", "scripted", "--n", "4", "--quiet", "--split", "train"]


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    rows = [{"question": f"What is {n} + {7 - n}?", "answer": "Add.\n#### 7"} for n in range(3)]
    for split in ("train", "test"):
        (tmp_path / "data" / "gsm8k" / f"openai_{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "data"))


def evaluated(folder, *arguments):
    replies = ["--set", f"engine.replies={json.dumps(REPLIES)}", "--limit", "1", "--out", str(folder)]
    assert main([*EVAL, *replies, *arguments]) == 0
    return RunReader.read(folder)


def a_problem(view):
    return next(iter(view.verdicts(view.graders()[0])))[1]


def test_evaluation_uses_and_records_the_chosen_grader(tmp_path, capsys):
    own, other = evaluated(tmp_path / "own"), evaluated(tmp_path / "other", "--grader", "legacy_dapo")
    for view, grader, expected in ((own, "math", [1, 1, 0, 0]), (other, "legacy_dapo", [1, -1, -1, -1])):
        assert view.graders() == [grader]
        assert view.record.data["gsm8k"]["grader"] == grader
        found = view.verdicts(grader)
        assert [found["gsm8k", a_problem(view), index].reward for index in range(4)] == expected
    assert [view.estimates()["gsm8k"][0].value for view in (own, other)] == [0.5, 0.25]
    assert own.record.config_digest != other.record.config_digest

    before = (tmp_path / "other" / "metrics.json").read_text()
    (tmp_path / "other" / "metrics.json").write_text("{}")
    assert main(["grade", str(tmp_path / "other"), "--grader", "math", "--quiet"]) == 0
    assert (tmp_path / "other" / "metrics.json").read_text() == "{}"  # not the run's own
    assert main(["grade", str(tmp_path / "other"), "--quiet"]) == 0
    assert (tmp_path / "other" / "metrics.json").read_text() == before


def test_grader_options_are_part_of_the_grader_name(tmp_path):
    view = evaluated(tmp_path / "run", "--grader", "legacy_hendrycks", "--set", "grader.variant=lm-eval-math")
    assert view.graders() == [GRADER] == [view.record.data["gsm8k"]["grader"]]


def test_training_takes_the_rewards_of_the_chosen_grader_and_a_held_out_evaluation_does_not(tmp_path):
    changes = [
        *("task.id=gsm8k", "grader.id=legacy_dapo", "sampling.max_tokens=4", "loop.steps=1", "loop.prompts_per_step=2"),
        *("loop.samples_per_prompt=2", "loop.minibatches_per_step=1", "held_out.every_steps=1"),
        *("held_out.split=test", "held_out.n=1", "held_out.limit=2"),
    ]
    settings = [part for change in changes for part in ("--set", change)]
    assert main(["train", "countdown-grpo", *settings, "--quiet", "--out", str(tmp_path / "run")]) == 0
    view = RunReader.read(tmp_path / "run")
    assert view.steps()[-1]["reward"] == -1.0
    assert view.record.data["gsm8k"]["grader"] == "legacy_dapo"
    (held_out,) = (tmp_path / "run" / "evals").iterdir()
    assert RunReader.read(held_out).graders() == ["math"]


@dataclass(frozen=True)
class Sealed:
    grader: object = ExactGrader()


def test_choosing_a_grader_changes_a_copy_of_the_task_or_is_refused():
    task = configs.parse_plugin("tasks", "gsm8k").build()
    chosen = configs.parse_plugin("graders", "legacy_dapo")
    assert with_grader(task, None) is task
    assert [grader_name(t, None) for t in (with_grader(task, chosen), task)] == ["legacy_dapo", "math"]
    with pytest.raises(ConfigError, match="another grader"):
        with_grader(Sealed(), chosen)
