"""Grading a run again: nothing is generated, and verdicts of other graders stay."""

from __future__ import annotations

import json

import pytest
from altered_runs import change_record, scripted_run

from harness.cli import main
from harness.runs.folder import RunReader


@pytest.fixture
def run(tmp_path):
    return scripted_run(tmp_path)


def test_regrading_generates_nothing_and_gives_the_same_verdicts(run):
    completions, metrics = (run / "completions.jsonl").read_bytes(), (run / "metrics.json").read_text()
    before = RunReader.read(run).verdicts("countdown")
    assert main(["grade", str(run), "--quiet"]) == 0
    view = RunReader.read(run)
    assert (run / "completions.jsonl").read_bytes() == completions
    assert view.verdicts("countdown") == before and len(before) == 12
    assert (run / "metrics.json").read_text() == metrics
    assert len((run / "verdicts.jsonl").read_text().splitlines()) == 24
    assert view.record.status == "done"


def test_regrading_with_another_grader_keeps_the_metrics_of_the_first(run, capsys):
    capsys.readouterr()
    metrics = (run / "metrics.json").read_text()
    options = ["--set", 'variant="lm-eval-math"', "--threads", "3", "--quiet", "--json"]
    assert main(["grade", str(run), "--grader", "legacy_hendrycks", *options]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "estimates": {"countdown": []},
        "n_completions": 12,
        "n_ungraded": 12,
        "too_many_ungraded": True,
        "reasons": {"reference unreadable": 12},
    }
    view = RunReader.read(run)
    assert view.graders() == ["countdown", 'legacy_hendrycks(variant="lm-eval-math")']
    assert {v.reason for v in view.verdicts('legacy_hendrycks(variant="lm-eval-math")').values()} == {
        "reference unreadable"
    }
    assert (run / "metrics.json").read_text() == metrics


def test_verdicts_of_other_code_are_reported_until_regraded(run, capsys):
    evaluation = ["eval", "--config", str(run.parent / "c.toml"), "--out", str(run), "--quiet"]
    change_record(run, code="0.0.1+old")
    assert main(evaluation) == 0
    printed = capsys.readouterr().err
    assert printed.startswith("warning: countdown: the stored verdicts are by version 0.0.1+old, and this is ")
    assert f"`harness grade {run}` grades them again" in printed
    assert main(["grade", str(run), "--quiet"]) == main(evaluation) == 0
    assert capsys.readouterr().err == ""
    assert RunReader.read(run).record.code == "0.0.1+old", "the record keeps the version that began the run"


def test_regrading_leaves_an_unfinished_run_unfinished(run):
    change_record(run, status="failed", error="it broke")
    assert main(["grade", str(run), "--quiet"]) == 0
    assert (RunReader.read(run).record.status, RunReader.read(run).record.error) == ("failed", "it broke")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grader", "mathh"], "did you mean 'math'"),
        (["--grader", "math", "--set", "symbolic_timeout=1"], "unknown key 'grader.symbolic_timeout'"),
        (["--grader", "judge"], "'grader.model' is missing"),
    ],
)
def test_regrade_request_that_is_wrong_is_refused(run, capsys, arguments, message):
    verdicts = (run / "verdicts.jsonl").read_bytes()
    assert main(["grade", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (run / "verdicts.jsonl").read_bytes() == verdicts


def test_regrading_prints_why_completions_are_ungraded(run, capsys):
    capsys.readouterr()
    assert main(["grade", str(run), "--grader", "choice", "--quiet"]) == 3
    out = capsys.readouterr().out
    n_completions = len(list(RunReader.read(run).completions()))
    assert f"{n_completions} completions graded, {n_completions} of them ungraded" in out
    assert f"ungraded: {n_completions} reference unreadable\nthis grader can't read the reference answers of" in out
