"""A run graded again and audited: nothing is generated, nothing of another grader is lost."""

from __future__ import annotations

import json
import os

import pytest

from harness.cli import main
from harness.core.types import Verdict
from harness.runs.folder import RunReader, RunWriter

CONFIG = """
tasks = ["countdown"]
n = 3
limit = 4
[model]
path = "countdown-tiny"
[engine]
id = "scripted"
replies = ["4*9=36;36+2=38", "nonsense", "Answer: 5"]
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    assert main(["eval", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    return tmp_path / "run"


def test_grading_again_generates_nothing_and_gives_the_same(run):
    completions, metrics = (run / "completions.jsonl").read_bytes(), (run / "metrics.json").read_text()
    before = RunReader.read(run).verdicts("countdown")
    assert main(["grade", str(run), "--quiet"]) == 0
    view = RunReader.read(run)
    assert (run / "completions.jsonl").read_bytes() == completions
    assert view.verdicts("countdown") == before and len(before) == 12
    assert (run / "metrics.json").read_text() == metrics
    assert len((run / "verdicts.jsonl").read_text().splitlines()) == 24
    assert view.record.status == "done"


def test_another_grader_stands_beside_the_first_and_leaves_its_metrics(run, capsys):
    capsys.readouterr()
    metrics = (run / "metrics.json").read_text()
    options = ["--set", 'variant="lm-eval-math"', "--threads", "3", "--quiet", "--json"]
    assert main(["grade", str(run), "--grader", "legacy_hendrycks", *options]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "estimates": {"countdown": []},
        "n_completions": 12,
        "n_ungraded": 12,
        "too_many_ungraded": True,
    }
    view = RunReader.read(run)
    assert view.graders() == ["countdown", 'legacy_hendrycks(variant="lm-eval-math")']
    assert {v.reason for v in view.verdicts('legacy_hendrycks(variant="lm-eval-math")').values()} == {
        "reference unreadable"
    }
    assert (run / "metrics.json").read_text() == metrics


def test_verdicts_of_other_code_are_told_until_they_are_given_anew(run, capsys):
    evaluation = ["eval", "--config", str(run.parent / "c.toml"), "--out", str(run), "--quiet"]
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "code": "0.0.1+old"}))
    assert main(evaluation) == 0
    told = capsys.readouterr().err
    assert told.startswith("warning: countdown: verdicts on record are those of version 0.0.1+old, and this is ")
    assert f"`harness grade {run}` gives them anew" in told
    assert main(["grade", str(run), "--quiet"]) == main(evaluation) == 0
    assert capsys.readouterr().err == ""
    assert RunReader.read(run).record.code == "0.0.1+old", "the version that began the run stays on record"


def test_an_unfinished_run_stays_unfinished(run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "failed", "error": "it broke"}))
    assert main(["grade", str(run), "--quiet"]) == 0
    assert (RunReader.read(run).record.status, RunReader.read(run).record.error) == ("failed", "it broke")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grader", "mathh"], "did you mean 'math'"),
        (["--grader", "math", "--set", "symbolic_timeout=1"], "unknown key 'grader.symbolic_timeout'"),
        (["--grader", "judge"], "'grader.base_url' is missing"),
    ],
)
def test_a_wrong_request_is_told(run, capsys, arguments, message):
    verdicts = (run / "verdicts.jsonl").read_bytes()
    assert main(["grade", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (run / "verdicts.jsonl").read_bytes() == verdicts


def test_audit_counts_and_shows_what_differs(run, capsys):
    view = RunReader.read(run)
    told = {
        0: Verdict("correct", 1.0, "38"),
        1: Verdict("incorrect", 0.0, None, "no answer"),
        2: Verdict("ungraded", None),
    }
    store = RunWriter(run, view.record, os.open(run / "run.lock", os.O_RDWR))
    for (task, problem_id, index), _ in view.verdicts("countdown").items():
        store.append_verdict(task, problem_id, index, "other", told[index])
    store.finish("done")
    capsys.readouterr()
    assert main(["audit", str(run), "--json", "--show", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    rates = {row[1]: dict(zip(found["rates"]["columns"], row, strict=True)) for row in found["rates"]["rows"]}
    assert (rates["other"]["correct"], rates["other"]["no answer"], rates["other"]["ungraded"]) == ("33.3%",) * 3
    (row,) = found["agreement"]["rows"]
    correct = sum(v.outcome == "correct" for v in view.verdicts("countdown").values())
    assert row[1:3] == ["countdown", "other"] and sum(row[3:8]) == 12 and row[7] == 4
    assert found["n_disagreements"] == sum(row[4:6]) == 4 - correct
    assert len(found["disagreements"]) == 2
    assert found["disagreements"][0]["text"] == "4*9=36;36+2=38"
    assert found["disagreements"][0]["said"]["other"] == "correct, read '38'"
    assert main(["audit", str(run)]) == 0
    assert "disagreements: 4" in capsys.readouterr().out
