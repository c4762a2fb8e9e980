"""`harness compare` over run folders that RunStore wrote."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.stats

from harness.cli import main
from harness.core.errors import RunFolderError, UsageError
from harness.core.store import RunStore
from harness.core.types import Verdict
from harness.reports.compare import ALL, compare

MARKS = {"+": "correct", "-": "incorrect", "?": "ungraded"}


@dataclass(frozen=True)
class Model:
    path: str = "tiny"


@dataclass(frozen=True)
class Config:
    model: Model = Model()
    tasks: Any = field(default_factory=lambda: ["sums"])
    engine: Any = "hf"
    sampling: Any = field(default_factory=lambda: {"temperature": 0.6})
    split: str = "test"
    n: int = 4
    seed: int = 0


def run_of(folder, problems, *, grader="exact", fingerprint="f00d", status="done", kind="eval", **config):
    """One evaluation: task -> problem -> the marks of its samples. Other graders have verdicts too, all right."""
    data = {task: {"fingerprint": fingerprint, "grader": grader} for task in problems}
    config = Config(tasks=list(problems), **config)
    store = RunStore.open(folder, kind, config, seeds={"run": 0}, data=data)
    for task, marks_of in problems.items():
        for problem, marks in marks_of.items():
            for index, mark in enumerate(marks):
                reward = None if mark == "?" else float(mark == "+")
                store.append_verdict(task, problem, index, "lenient", Verdict("correct", 1.0))
                store.append_verdict(task, problem, index, grader, Verdict(MARKS[mark], reward))
    store.finish(status)
    return folder


def row(table, task="sums"):
    return next(dict(zip(table.columns, cells, strict=True)) for cells in table.rows if cells[0] == task)


FIRST = {"sums": {"a": "+---", "b": "++--", "c": "----", "d": "+++?", "e": "--", "z": "++++"}}
SECOND = {"sums": {"a": "++--", "b": "++++", "c": "+---", "d": "++--", "e": "+-", "y": "++++"}}
DIFFERENCES = [0.25, 0.5, 0.25, -0.5, 0.5]


def test_differences_are_of_the_problems_in_common(tmp_path):
    table = compare(run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND))
    found = row(table)
    assert found["problems"] == 5
    assert found["first"] == pytest.approx((0.25 + 0.5 + 0 + 1 + 0) / 5)
    assert found["second"] == pytest.approx((0.5 + 1 + 0.25 + 0.5 + 0.5) / 5)
    assert found["difference"].value == pytest.approx(np.mean(DIFFERENCES))
    assert (found["difference"].n_completions, found["difference"].n_ungraded) == (35, 1)
    assert found["difference"].low < found["difference"].value < found["difference"].high
    theirs = scipy.stats.permutation_test(
        (DIFFERENCES,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert found["p"] == found["p (Holm)"] == pytest.approx(theirs.pvalue)
    assert found["McNemar p"] is None
    assert found["detectable"] == pytest.approx(2.8016 * scipy.stats.sem(DIFFERENCES), rel=1e-4)
    assert "LEFT OUT: 2 problems of sums that only one run has graded samples of" in table.notes
    assert [cells[0] for cells in table.rows] == ["sums"]


def test_turning_the_runs_round_turns_the_difference(tmp_path):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND)
    there, back = row(compare(one, two)), row(compare(two, one))
    assert there["difference"].value == -back["difference"].value
    assert (there["p"], there["detectable"]) == (back["p"], back["detectable"])


def test_single_samples_have_mcnemar(tmp_path):
    one = run_of(tmp_path / "one", {"sums": {str(i): "+" if i < 3 else "-" for i in range(20)}})
    two = run_of(tmp_path / "two", {"sums": {str(i): "+" if i >= 2 else "-" for i in range(14)}})
    found = row(compare(one, two))
    assert found["problems"] == 14
    assert found["McNemar p"] == found["p"] == pytest.approx(scipy.stats.binomtest(2, 13).pvalue)


def test_several_tasks_are_adjusted_and_pooled(tmp_path):
    tasks = {"sums": {str(i): "--" for i in range(8)}, "products": {"a": "+-", "b": "--", "c": "++"}}
    other = {"sums": {str(i): "+-" for i in range(8)}, "products": {"a": "++", "b": "+-", "c": "++"}}
    table = compare(run_of(tmp_path / "one", tasks), run_of(tmp_path / "two", other))
    assert [cells[0] for cells in table.rows] == ["sums", "products", ALL]
    assert (row(table)["p"], row(table)["p (Holm)"]) == (2 / 256, 4 / 256)
    assert row(table, "products")["p (Holm)"] == row(table, "products")["p"] == 0.5
    assert row(table, ALL)["problems"] == 11
    assert row(table, ALL)["difference"].value == pytest.approx((8 * 0.5 + 2 * 0.5) / 11)
    assert row(table, ALL)["p (Holm)"] is None
    assert row(table)["detectable"] is None  # all differences are one value


def test_only_samples_below_n_count(tmp_path):
    one, two = run_of(tmp_path / "one", FIRST, n=2), run_of(tmp_path / "two", SECOND, n=2)
    assert row(compare(one, two))["difference"].value == pytest.approx((0.5 + 0 + 0.5 + 0 + 0.5) / 5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sampling": {"temperature": 1.0}}, "sums temperature: 0.6 / 1.0"),
        ({"grader": "math"}, "sums grader: exact / math"),
        ({"fingerprint": "beef"}, "sums data fingerprint: f00d / beef"),
        ({"split": "train"}, "sums split: test / train"),
        ({"engine": "vllm"}, "sums engine: hf / vllm"),
    ],
)
def test_other_protocols_are_refused_unless_told(tmp_path, change, told):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND, **change)
    with pytest.raises(UsageError, match="were not evaluated alike") as refusal:
        compare(one, two)
    assert told in str(refusal.value)
    table = compare(one, two, anyway=True)
    assert f"NOT ALIKE: {told}" in table.notes
    assert row(table)["difference"].value == pytest.approx(np.mean(DIFFERENCES))


def test_models_and_what_is_only_noise_may_differ(tmp_path):
    one = run_of(tmp_path / "one", FIRST)
    table = compare(one, run_of(tmp_path / "two", SECOND, model=Model("other"), seed=3, n=16))
    assert "differs: seed: 0 / 3" in table.notes
    assert "differs: samples a problem: 4 / 16" in table.notes
    assert not any("NOT ALIKE" in note or "model" in note for note in table.notes)


def test_an_unfinished_run_is_told(tmp_path):
    table = compare(run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND, status="interrupted"))
    assert any(note.startswith("UNFINISHED: two") for note in table.notes)


def test_what_can_t_be_compared_is_refused(tmp_path):
    one = run_of(tmp_path / "one", FIRST)
    with pytest.raises(UsageError, match="no task in common"):
        compare(one, run_of(tmp_path / "other", {"products": {"a": "+"}}))
    with pytest.raises(UsageError, match="no problem has graded samples in both"):
        compare(one, run_of(tmp_path / "empty", {"sums": {"a": "??", "q": "++"}}))
    with pytest.raises(RunFolderError, match="is a train run"):
        compare(one, run_of(tmp_path / "train", FIRST, kind="train"))
    with pytest.raises(RunFolderError, match="is no run folder"):
        compare(one, tmp_path / "absent")


def test_the_verb(tmp_path, capsys):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND, split="train")
    assert main(["compare", str(one), str(two)]) == 2
    assert "--anyway" in capsys.readouterr().err
    assert main(["compare", str(one), str(two), "--anyway", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert table["rows"][0]["difference"]["value"] == pytest.approx(np.mean(DIFFERENCES))
    assert main(["compare", str(one), str(run_of(tmp_path / "three", SECOND))]) == 0
    assert "first: one; second: three" in capsys.readouterr().out
