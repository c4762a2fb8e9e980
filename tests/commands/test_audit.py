"""`harness audit`: tables of the graders of a run, and the texts on which they disagree."""

from __future__ import annotations

import json
import os

import pytest
from altered_runs import scripted_run

from harness.cli import main
from harness.core.types import Verdict
from harness.runs.folder import RunReader, RunWriter


@pytest.fixture
def run(tmp_path):
    return scripted_run(tmp_path)


def test_audit_counts_and_shows_differences(run, capsys):
    view = RunReader.read(run)
    verdicts = {
        0: Verdict("correct", 1.0, "38"),
        1: Verdict("incorrect", 0.0, None, "no answer"),
        2: Verdict("ungraded", None),
    }
    store = RunWriter(run, view.record, os.open(run / "run.lock", os.O_RDWR))
    for (task, problem_id, index), _ in view.verdicts("countdown").items():
        store.append_verdict(task, problem_id, index, "other", verdicts[index])
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
    assert found["disagreements"][0]["verdicts"]["other"] == "correct, read '38'"
    assert main(["audit", str(run)]) == 0
    assert "disagreements: 4" in capsys.readouterr().out


def test_audit_explains_that_nothing_can_be_compared(run, capsys):
    def audited():
        capsys.readouterr()
        assert main(["audit", str(run)]) == 0
        return capsys.readouterr().out

    assert f"nothing to compare: {run} has the verdicts of one grader, countdown; `harness grade" in audited()
    view = RunReader.read(run)
    store = RunWriter.reopen(run, {})
    for (task, problem_id, index), _ in view.verdicts("countdown").items():
        store.append_verdict(task, problem_id, index, "other", Verdict("ungraded", None, reason="why"))
    store.close()
    printed = audited()
    assert "nothing to compare: no completion was graded by two of countdown, other" in printed
    assert "disagreements" not in printed


def test_texts_of_completions_can_not_steer_the_terminal(tmp_path, capsys):
    attack = "\x1b]0;owned\x07\x1b[2J\u202e5"
    run = scripted_run(tmp_path, replies=[attack, "4*9=36;36+2=38", "Answer: 5"])
    store = RunWriter(run, RunReader.read(run).record, os.open(run / "run.lock", os.O_RDWR))
    for (task, problem_id, index), _ in RunReader.read(run).verdicts("countdown").items():
        store.append_verdict(task, problem_id, index, "\x1b[31mother", Verdict("correct", 1.0, attack))
    store.finish("done")
    capsys.readouterr()
    for command in (["audit", str(run)], ["show", str(run)], ["audit", f"{run}\x1b[2J"]):
        main(command)
    captured = capsys.readouterr()
    assert "\\x1b]0;owned\\x07" in captured.out and "\\x1b[2J" in captured.err
    assert not {"\x1b", "\x07", "\u202e"} & set(captured.out + captured.err)
