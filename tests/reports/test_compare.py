"""`harness compare` over run folders that RunWriter wrote."""

import itertools
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.stats
from altered_runs import change_record

from harness.cli import main
from harness.core.errors import RunFolderError, UsageError
from harness.core.types import Completion, Tokens, Verdict
from harness.reports import compare as comparing
from harness.reports.compare import ALL
from harness.reports.plan import plan
from harness.runs.folder import RunIdentity, RunWriter
from harness.stats.paired_tests import (
    crossed_interval,
    crossed_test,
    difference_interval,
    holm,
    regrouped,
    seed_error,
    sign_flip,
    standard_error,
)

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
    metrics: Any = field(default_factory=list)


def compare(first, second, **options):
    """One run a side."""
    return comparing.compare([first], [second], **options)


def run_of(folder, problems, *, grader="exact", fingerprint="f00d", status="done", kind="eval", **config):
    """One evaluation: task -> problem -> the marks of its samples. Other graders have verdicts too, all right."""
    data = {task: {"fingerprint": fingerprint, "grader": grader} for task in problems}
    config = Config(tasks=list(problems), **config)
    store = RunWriter.open(folder, RunIdentity.of(kind, config, seeds={"run": 0}, data=data))
    for task, marks_of in problems.items():
        for problem, marks in marks_of.items():
            for index, mark in enumerate(marks):
                store.append_completion(task, Completion(problem, index, index, "text", "stop", Tokens(2, len(marks))))
                reward = None if mark == "?" else float(mark == "+")
                store.append_verdict(task, problem, index, "lenient", Verdict("correct", 1.0))
                store.append_verdict(task, problem, index, grader, Verdict(MARKS[mark], reward))
    store.finish(status)
    return folder


def row(table, task="sums", metric="avg"):
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    return next(row for row in rows if (row["task"], row["metric"]) == (task, metric))


FIRST = {"sums": {"a": "+---", "b": "++--", "c": "----", "d": "+++?", "e": "--", "z": "++++"}}
SECOND = {"sums": {"a": "++--", "b": "++++", "c": "+---", "d": "++--", "e": "+-", "y": "++++"}}
DIFFERENCES = [0.25, 0.5, 0.25, -0.5, 0.5]


def test_compared_differences_are_of_the_problems_in_common(tmp_path):
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
    assert "McNemar p" not in found
    assert found["detectable"] == pytest.approx(2.8016 * scipy.stats.sem(DIFFERENCES), rel=1e-4)
    assert "LEFT OUT: 2 problems of sums without graded samples in some run" in table.notes
    assert [cells[0] for cells in table.rows] == ["sums"]


def test_swapping_compared_runs_negates_the_difference(tmp_path):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND)
    there, back = row(compare(one, two)), row(compare(two, one))
    assert there["difference"].value == -back["difference"].value
    assert (there["p"], there["detectable"]) == (back["p"], back["detectable"])


def test_runs_of_single_samples_are_compared_by_mcnemar(tmp_path):
    one = run_of(tmp_path / "one", {"sums": {str(i): "+" if i < 3 else "-" for i in range(20)}})
    two = run_of(tmp_path / "two", {"sums": {str(i): "+" if i >= 2 else "-" for i in range(14)}})
    found = row(compare(one, two))
    assert found["problems"] == 14
    assert found["McNemar p"] == found["p"] == pytest.approx(scipy.stats.binomtest(2, 13).pvalue)


def test_comparison_of_several_tasks_is_adjusted_and_pooled(tmp_path):
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


def test_comparison_uses_only_samples_below_n(tmp_path):
    one, two = run_of(tmp_path / "one", FIRST, n=2), run_of(tmp_path / "two", SECOND, n=2)
    assert row(compare(one, two))["difference"].value == pytest.approx((0.5 + 0 + 0.5 + 0 + 0.5) / 5)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sampling": {"temperature": 1.0}}, "sums temperature: 0.6 / 1.0"),
        ({"grader": "math"}, "sums grader: exact / math"),
        ({"fingerprint": "beef"}, "sums data fingerprint: f00d / beef"),
        ({"split": "train"}, "sums split: test / train"),
        ({"engine": "vllm"}, "sums engine: hf / vllm"),
    ],
)
def test_comparison_refuses_other_protocols_unless_forced(tmp_path, change, line):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND, **change)
    with pytest.raises(UsageError, match="were not evaluated alike") as refusal:
        compare(one, two)
    assert line in str(refusal.value)
    table = compare(one, two, anyway=True)
    assert f"NOT ALIKE: {line}" in table.notes
    assert row(table)["difference"].value == pytest.approx(np.mean(DIFFERENCES))


def test_compared_runs_may_differ_in_model_seed_and_version(tmp_path):
    one = run_of(tmp_path / "one", FIRST)
    table = compare(one, run_of(tmp_path / "two", SECOND, model=Model("other"), seed=3, n=16))
    assert "differs: seed: 0 / 3" in table.notes
    assert "differs: samples a problem: 4 / 16" in table.notes
    assert not any("NOT ALIKE" in note or "model" in note for note in table.notes)


def test_an_unfinished_run_is_named_in_the_notes(tmp_path):
    table = compare(run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND, status="interrupted"))
    assert any(note.startswith("UNFINISHED: two") for note in table.notes)


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one = run_of(tmp_path / "one", FIRST)
    with pytest.raises(UsageError, match="no task in common"):
        compare(one, run_of(tmp_path / "other", {"products": {"a": "+"}}))
    with pytest.raises(UsageError, match="no problem has graded samples in all"):
        compare(one, run_of(tmp_path / "empty", {"sums": {"a": "??", "q": "++"}}))
    with pytest.raises(RunFolderError, match="is a train run"):
        compare(one, run_of(tmp_path / "train", FIRST, kind="train"))
    with pytest.raises(RunFolderError, match="is not a run folder"):
        compare(one, tmp_path / "absent")


# --- other metrics, other graders -------------------------------------------------------------------------------

METRICS = ["avg_at_k", "pass_at_k", {"id": "tokens"}]
FULL_ONE = {"sums": {"a": "+---", "b": "++--", "c": "----", "d": "+++-", "e": "---"}}
FULL_TWO = {"sums": {"a": "++--", "b": "++++", "c": "+---", "d": "++--", "e": "+--"}}


def any_right(marks, k):
    subsets = list(itertools.combinations(marks, k))
    return sum("+" in subset for subset in subsets) / len(subsets)


def test_every_metric_that_both_have_is_compared(tmp_path):
    one = run_of(tmp_path / "one", FULL_ONE, metrics=METRICS)
    two = run_of(tmp_path / "two", FULL_TWO, metrics=[*METRICS, "truncated"])
    table = compare(one, two)
    # pass@1 is what avg is.
    assert [cells[1] for cells in table.rows] == ["avg", "pass@2", "pass@3", "tokens"]
    passed = [[any_right(marks, 3) for marks in problems["sums"].values()] for problems in (FULL_ONE, FULL_TWO)]
    found = row(table, metric="pass@3")
    assert found["first"] == pytest.approx(np.mean(passed[0]))
    assert found["difference"].value == pytest.approx(np.mean(passed[1]) - np.mean(passed[0]))
    assert found["p"] == sign_flip(np.subtract(passed[1], passed[0])).p
    assert row(table, metric="tokens")["first"] == row(table, metric="tokens")["second"] == pytest.approx(3.8)
    p_values = [row(table, metric=name)["p"] for name in ("avg", "pass@2", "pass@3", "tokens")]
    assert [row(table, metric=name)["p (Holm)"] for name in ("avg", "pass@2", "pass@3", "tokens")] == holm(p_values)


def test_differences_above_one_have_an_interval_of_their_scale(tmp_path):
    """The number of tokens is that of the samples here."""
    one = run_of(tmp_path / "one", {"sums": {str(i): "+" * 40 for i in range(30)}}, metrics=["tokens"], n=99)
    two = run_of(tmp_path / "two", {"sums": {str(i): "+" * (40 + i) for i in range(30)}}, metrics=["tokens"], n=99)
    found = row(compare(one, two), metric="tokens")["difference"]
    assert found.value == pytest.approx(14.5)
    interval = difference_interval(np.arange(30) / 69)  # the longest has 69
    assert (found.low, found.high) == pytest.approx((69 * interval.low, 69 * interval.high))


@pytest.mark.parametrize(("metric", "names"), [("pass@2", ["pass@2"]), ("avg", ["avg"]), ("avg@4", ["avg"])])
def test_a_metric_name_compares_only_that_estimate(tmp_path, metric, names):
    one, two = run_of(tmp_path / "one", FULL_ONE), run_of(tmp_path / "two", FULL_TWO)
    assert [cells[1] for cells in compare(one, two, metric=metric).rows] == names


def test_a_metric_id_compares_all_its_estimates(tmp_path):
    one, two = run_of(tmp_path / "one", FULL_ONE), run_of(tmp_path / "two", FULL_TWO)
    found = [cells[1] for cells in compare(one, two, metric="pass_hat_k").rows]
    assert found == ["pass-all@1", "pass-all@2", "pass-all@3"]


def test_an_unknown_metric_is_refused(tmp_path):
    one, two = run_of(tmp_path / "one", FULL_ONE), run_of(tmp_path / "two", FULL_TWO)
    with pytest.raises(UsageError, match="no metric gives 'pas@2' problem by problem for these runs; did you mean"):
        compare(one, two, metric="pas@2")
    with pytest.raises(UsageError, match="k = 8 needs that many graded samples"):
        compare(one, two, metric="pass@8")


def test_runs_can_be_compared_by_another_of_their_graders(tmp_path):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND, grader="math")
    with pytest.raises(UsageError, match="grader: exact / math"):
        compare(one, two)
    assert row(compare(one, two, grader="lenient"))["first"] == 1.0
    with pytest.raises(UsageError, match=r"one has no verdicts of the grader 'lenint' on sums; did you mean 'lenient'"):
        compare(one, two, grader="lenint")


def test_a_verdict_without_its_completion_is_refused(tmp_path):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND)
    (one / "completions.jsonl").unlink()
    change_record(one, sizes={})  # as a run that was killed
    with pytest.raises(RunFolderError, match=r"one has a verdict on a\[0\] and no completion"):
        compare(one, two)


def test_problems_of_one_family_count_as_one(tmp_path):
    """Thirty contests of three problems each, all three alike: as if each contest were one problem."""
    rng = np.random.default_rng(5)
    right = {"one": rng.integers(0, 5, size=30), "two": rng.integers(0, 5, size=30)}
    folders = [
        run_of(tmp_path / side, {"sums": {f"{i}{part}": marks_of(c) for i, c in enumerate(counts) for part in "abc"}})
        for side, counts in right.items()
    ]
    single = row(compare(*folders))
    for folder in folders:
        families = {f"{i}{part}": str(i) for i in range(30) for part in "abc"}
        (folder / "clusters.json").write_text(json.dumps({"sums": families}))
    found = row(compare(*folders))
    differences = (right["two"] - right["one"]) / 4
    assert found["difference"].value == single["difference"].value == pytest.approx(differences.mean())
    assert found["p"] == sign_flip(differences).p
    assert found["detectable"] == pytest.approx(2.8016 * scipy.stats.sem(differences), rel=1e-4)
    assert found["difference"].method.startswith("95% t, skewness and unseen problems over 30 clusters of 90 problems")
    # Three copies bring no precision: sqrt(3) times as wide as if they were drawn one by one.
    width, narrow = (e.high - e.low for e in (found["difference"], single["difference"]))
    assert width / narrow == pytest.approx(3**0.5, rel=0.1)


# --- planning, and sets without power ----------------------------------------------------------------------------


def simulated(folder, rates, n, seed):
    rng = np.random.default_rng(seed)
    marks = {f"p{i:03}": "+" * c + "-" * (n - c) for i, c in enumerate(rng.binomial(n, rates))}
    return run_of(folder, {"sums": marks}, seed=seed, n=n)


def test_a_plan_gives_samples_and_problems(tmp_path):
    rates = np.random.default_rng(2).beta(2, 2, size=40)
    runs = [[simulated(tmp_path / side, rates, 4, seed)] for seed, side in enumerate("ab")]
    table = plan(*runs, difference=0.05, power=0.8)
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert [row["samples"] for row in rows] == [1, 4, 16, 64, 256]
    one, four = rows[:2]
    # With as many problems and samples as these runs have, it is the detectable difference of the comparison.
    assert four["detectable"] == pytest.approx(row(compare(runs[0][0], runs[1][0]))["detectable"], rel=1e-4)
    # No true difference: 0.2 + 0.2 is the variance of a sample of both sides.
    assert one["problems needed"] == pytest.approx(2.8016**2 * 0.4 / 0.05**2, rel=0.25)
    assert one["completions a run"] == one["problems needed"]
    assert four["completions a run"] == 4 * four["problems needed"]
    assert "no number of samples finds 0.05: more problems or runs are needed" in table.notes[0]
    assert "samples of each problem find 0.3" in plan(*runs, difference=0.3, power=0.8).notes[0]


@pytest.mark.parametrize(("k", "n_clusters"), [(1, 25), (2, 50), (2, 25), (4, 25)])
def test_a_plan_for_the_same_design_is_what_the_comparison_detects(tmp_path, k, n_clusters):
    rng = np.random.default_rng(4)
    skill = rng.beta(2, 2, size=50)
    families = {f"p{i:03}": str(i % n_clusters) for i in range(50)}
    shift = np.tile(rng.normal(0, 0.25, size=n_clusters), 50 // n_clusters)
    sides = []
    for seed, rates in enumerate((skill, np.clip(skill + shift, 0, 1))):
        sides.append(simulated(tmp_path / str(seed), rates, 8, seed))
        if n_clusters < 50:
            (sides[-1] / "clusters.json").write_text(json.dumps({"sums": families}))
    table = plan(sides[:1], sides[1:], difference=0.05, power=0.8, k=k)
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    (same,) = (row for row in rows if row["samples"] == 8)
    found = row(compare(*sides, metric=f"pass@{k}"), metric=f"pass@{k}")
    assert same["detectable"] == pytest.approx(found["detectable"], rel=1e-9)
    assert all(row["samples"] >= k for row in rows)
    assert ("The problems are in 25 clusters, 2.0 in each" in table.notes[0]) == (n_clusters < 50)


def test_a_plan_of_several_runs_counts_seeds(tmp_path):
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1, size=20)
    runs = [
        [
            simulated(tmp_path / f"{side}{i}", 1 / (1 + np.exp(-logits - rng.normal(0, 1))), 4, 10 * s + i)
            for i in range(3)
        ]
        for s, side in enumerate("ab")
    ]
    table = plan(*runs, difference=0.02, power=0.8)
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert {row["runs a side"] for row in rows} == {1, 3, 5}
    assert all(row["problems needed"] is None for row in rows)
    assert "no number of samples finds 0.02: more problems or runs are needed" in table.notes[0]
    at_four = [row["detectable"] for row in rows if row["samples"] == 4]
    assert at_four == sorted(at_four, reverse=True)


def test_plan_command_refuses_what_cannot_be_planned(tmp_path, capsys):
    single = {"sums": {"a": "+", "b": "-", "c": "+"}}
    runs = [str(run_of(tmp_path / name, single)) for name in "ab"]
    assert main(["compare", *runs, "--plan"]) == 2
    assert "has 0 problems with 2 graded samples in every run" in capsys.readouterr().err
    several = [str(run_of(tmp_path / name, FULL_ONE if name == "c" else FULL_TWO)) for name in "cd"]
    for arguments, message in (
        (["--plan", "--detect", "2"], "--detect is a difference between 0 and 1"),
        (["--plan", "--power", "1"], "--power is between"),
        (["--power", "0.9"], "--power is for --plan"),
        (["--plan", "--metric", "maj@2"], "--plan is for avg and for pass@k, such as pass@8, not for maj@2"),
        (["--plan", "--metric", "pass@8"], "with 16 graded samples in every run, and planning pass@8 needs two"),
    ):
        assert main(["compare", *several, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["compare", *several, "--plan"]) == 0
    assert "problems needed" in capsys.readouterr().out


@pytest.mark.parametrize(("marks", "word"), [("+" * 99 + "-", "above 95%"), ("-" * 99 + "+", "below 2%")])
def test_a_set_at_its_ceiling_or_floor_has_no_power(tmp_path, marks, word):
    runs = [run_of(tmp_path / name, {"sums": {"a": marks, "b": marks}}, n=100) for name in ("one", "two")]
    assert any(note.startswith(f"NO POWER: avg on sums: both sides are {word}") for note in compare(*runs).notes)
    half = run_of(tmp_path / "half", {"sums": {"a": "+-" * 50, "b": "+-" * 50}}, n=100)
    assert not any("NO POWER" in note for note in compare(runs[0], half).notes)


def test_rows_that_cannot_find_the_difference_asked_for_are_marked(tmp_path):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND)
    assert not any("NO POWER" in note for note in compare(one, two, detect=0.9).notes)
    (note,) = [note for note in compare(one, two, detect=0.02).notes if "NO POWER" in note]
    assert note.startswith("NO POWER: avg on sums: the smallest detectable difference is 0.")


# --- several runs a side ----------------------------------------------------------------------------------------


def marks_of(n_right):
    return "+" * n_right + "-" * (4 - n_right)


def test_runs_of_several_seeds_are_resampled_too(tmp_path):
    rng = np.random.default_rng(3)
    rates = {"one": rng.integers(0, 5, size=(3, 20)), "two": rng.integers(1, 5, size=(2, 20))}
    folders = {
        side: [
            run_of(
                tmp_path / f"{side}{seed}", {"sums": {f"p{i:02}": marks_of(c) for i, c in enumerate(run)}}, seed=seed
            )
            for seed, run in enumerate(runs)
        ]
        for side, runs in rates.items()
    }
    table = comparing.compare(folders["one"], folders["two"])
    first, second = rates["one"] / 4, rates["two"] / 4
    found = row(table)
    assert found["first"] == pytest.approx(first.mean())
    assert found["difference"].value == pytest.approx(second.mean() - first.mean())
    interval = crossed_interval(first, second)
    assert (found["difference"].low, found["difference"].high) == pytest.approx((interval.low, interval.high))
    differences = second.mean(axis=0) - first.mean(axis=0)
    assert found["p"] == found["p (Holm)"] == pytest.approx(crossed_test(first, second).p)
    assert found["p (these runs only)"] == sign_flip(differences).p
    error = math.hypot(standard_error(differences), seed_error(first.mean(axis=1), second.mean(axis=1)).error)
    assert found["detectable"] == pytest.approx(2.8016 * error, rel=1e-4)
    assert found["p (runs)"] == regrouped(first.mean(axis=1), second.mean(axis=1)).p
    assert found["difference"].n_completions == 5 * 20 * 4
    assert "differs: seed: 0 / 1 / 2" in table.notes
    assert any("over runs and problems" in note for note in table.notes)
    assert any("p (these runs only) is the sign-flip test over problems: it ignores seeds" in n for n in table.notes)
    assert any(note.startswith("FEW RUNS: a statement about seeds needs at least 3 runs") for note in table.notes)


def test_the_corrected_column_of_several_runs_counts_seeds(tmp_path):
    """Under no effect but the seeds', few comparisons are significant (tests/stats/test_coverage.py has more)."""
    rng, table_of = np.random.default_rng(8), {}
    for place in range(16):
        skill = rng.normal(0, 1.5, size=30)
        for side in "ab":
            runs = []
            for seed in range(3):
                rates = 1 / (1 + np.exp(-skill - rng.normal(0, 0.5)))
                marks = {f"p{i:02}": marks_of(c) for i, c in enumerate(rng.binomial(4, rates))}
                runs.append(run_of(tmp_path / f"{place}{side}{seed}", {"sums": marks}, seed=seed))
            table_of[place, side] = runs
    found = [row(comparing.compare(table_of[place, "a"], table_of[place, "b"])) for place in range(16)]
    # Binomial(16, 0.05) exceeds 3 in one of 150; p of these runs alone is below 0.05 in about half.
    assert sum(f["p (Holm)"] <= 0.05 for f in found) <= 3
    assert sum(f["p (these runs only)"] <= 0.05 for f in found) >= 5


def test_a_run_of_a_group_under_another_protocol_is_refused(tmp_path):
    alike = [run_of(tmp_path / name, FIRST) for name in ("one", "two")]
    other = run_of(tmp_path / "three", FIRST, sampling={"temperature": 1.0})
    with pytest.raises(
        UsageError, match=r"one, .*three and .*two were not evaluated alike \(sums temperature: 0.6 / 1.0"
    ):
        comparing.compare([alike[0], other], alike[1:])
    with pytest.raises(UsageError, match="named twice"):
        comparing.compare(alike, alike[:1])


def test_compare_command_accepts_groups_of_runs(tmp_path, capsys):
    runs = [str(run_of(tmp_path / str(i), FIRST if i < 2 else SECOND, seed=i)) for i in range(4)]
    assert main(["compare", *runs[:2], "--against", *runs[2:], "--metric", "avg", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert table["rows"][0]["difference"]["value"] == pytest.approx(np.mean(DIFFERENCES))
    # The data as they are, and turned round, of six groupings.
    assert table["rows"][0]["p (runs)"] == pytest.approx(2 / 6)
    assert main(["compare", *runs[:3]]) == 2
    assert "--against" in capsys.readouterr().err


def test_compare_command_prints_the_comparison(tmp_path, capsys):
    one, two = run_of(tmp_path / "one", FIRST), run_of(tmp_path / "two", SECOND, split="train")
    assert main(["compare", str(one), str(two)]) == 2
    assert "--anyway" in capsys.readouterr().err
    assert main(["compare", str(one), str(two), "--anyway", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert table["rows"][0]["difference"]["value"] == pytest.approx(np.mean(DIFFERENCES))
    assert main(["compare", str(one), str(run_of(tmp_path / "three", SECOND))]) == 0
    assert "first: one; second: three" in capsys.readouterr().out
