"""Exported to lm-eval and run by its own command, a task gets the score that it gets here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.core.errors import DataError
from harness.interop.lm_eval_export import process_results
from harness.interop.problems import read_rows
from harness.models.loading import resolve
from harness.runs.folder import RunReader

LIMIT = 40


def export(folder, *arguments):
    assert main(["export", "lm-eval", str(folder), "--tasks", "countdown", "--limit", str(LIMIT), *arguments]) == 0
    return folder


def test_exported_rows_have_our_prompts_and_the_folder_is_never_overwritten(tmp_path, capsys):
    rows = read_rows(export(tmp_path / "out", "--model", "countdown-tiny") / "countdown.jsonl")
    assert len(rows) == LIMIT
    assert rows[0]["prompt"] == rows[0]["messages"][0]["content"]  # the bundled model's template adds nothing
    assert main(["export", "lm-eval", str(tmp_path / "out"), "--tasks", "countdown"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


def test_lm_eval_results_are_the_graders_verdicts(tmp_path):
    assert main(["eval", "countdown-tiny", "--tasks", "countdown", "--limit", "20", "--n", "1", "--temperature", "0",
                 "--out", str(tmp_path / "run"), "--quiet"]) == 0  # fmt: skip
    view = RunReader.read(tmp_path / "run")
    outcomes = {key[1]: verdict.outcome for key, verdict in view.verdicts("countdown").items()}
    rows = {row["id"]: row for row in read_rows(export(tmp_path / "out") / "countdown.jsonl")}
    texts = {c.problem_id: c.text for _, c in view.completions()}
    found = {name: process_results(rows[name], [[text]]) for name, text in texts.items()}
    assert found == {
        name: {"ungraded": 0, "correct": float(outcome == "correct")} for name, outcome in outcomes.items()
    }
    right, wrong = (next(n for n, o in outcomes.items() if o == outcome) for outcome in ("correct", "incorrect"))
    several = process_results(rows[right], [[texts[right], texts[wrong], texts[right], texts[right]]])
    assert several["correct"] == 0.75


def test_exported_task_uses_the_chosen_grader(tmp_path):
    row = read_rows(export(tmp_path / "out", "--grader", "exact") / "countdown.jsonl")[0]
    assert process_results(row, [["1+1=2"]]) == {"ungraded": 1.0}  # it can't read what countdown has for a reference


def test_data_changed_since_the_export_is_refused(tmp_path):
    row = read_rows(export(tmp_path / "out") / "countdown.jsonl")[0]
    row["messages"][0]["content"] += " "
    with pytest.raises(DataError, match="changed after"):
        process_results(row, [["1+1=2"]])


def test_lm_eval_tasks_are_not_exported_to_lm_eval(tmp_path, capsys):
    pytest.importorskip("lm_eval")
    assert main(["export", "lm-eval", str(tmp_path / "out"), "--tasks", "lm_eval:gsm8k"]) == 2
    assert "a task of another evaluator" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_written", [True, False])
def test_lm_eval_command_gives_our_score(tmp_path, is_written):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox -e interop` runs this")
    pytest.importorskip("accelerate")
    asked = ["--temperature", "0", *(["--model", "countdown-tiny"] if is_written else [])]
    folder = export(tmp_path / "out", *asked)
    model = ["--model", "hf", "--model_args", f"pretrained={resolve('countdown-tiny')}", "--device", "cpu"]
    template = [] if is_written else ["--apply_chat_template"]
    called = [sys.executable, "-m", "lm_eval", "run", *model, "--tasks", "harness_countdown", "--include_path",
              str(folder), "--batch_size", "1", "--output_path", str(tmp_path / "theirs"), *template]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(called, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(Path(results).read_text())["results"]["harness_countdown"]
    assert main(["eval", "countdown-tiny", "--tasks", "countdown", "--limit", str(LIMIT), "--n", "1", "--temperature",
                 "0", "--out", str(tmp_path / "run"), "--quiet"]) == 0  # fmt: skip
    (ours,) = (e for e in RunReader.read(tmp_path / "run").estimates()["countdown"] if e.name == "avg@1")
    assert 0 < ours.value < 1
    assert theirs["correct,all"] == pytest.approx(ours.value, abs=1e-12)
    assert theirs["ungraded,all"] == 0
