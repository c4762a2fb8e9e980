"""Unit tests of metrics: the made-up runs have the diversity they claim, and bad metrics are found out."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from command_output import output, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diversity import validation
from harness.diversity.validation import AVOID, BELIEVE, CARE, Findings, findings_of, made_up_runs, sources
from harness.diversity.wordings import written
from harness.stats.diversity import spearman

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("truth", "one", "reworded", "four", "padded", "equal errors", "odd errors", "few samples", "many samples",
         "eight")  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return sources(6)


@pytest.fixture(scope="module")
def scenarios(made):
    return made_up_runs(made)


def n_solutions(items):
    return len({item.verdict.details["solution"] for item in items})


def test_made_up_runs_have_the_diversity_of_their_names(made, scenarios):
    by_problem = {
        name: [[item for item in graded if item.problem.id == one.problem.id] for one in made]
        for name, graded in scenarios.items()
    }
    for size in (1, 2, 4, 8):
        assert [n_solutions(items) for items in by_problem[f"{size} solutions"]] == [size] * 6
    for items in by_problem["reworded"]:
        assert n_solutions(items) == 1 and len({item.completion.text for item in items}) > 12
    assert [len({item.completion.text for item in items}) for items in by_problem["one"]] == [1] * 6
    for step in (2, 8):
        texts = [[item.completion.text for item in items] for items in by_problem[f"mix {step}"]]
        assert [sorted(map(found.count, set(found)))[0] for found in texts] == [step] * 6
    for items in by_problem["odd errors"]:
        assert [item.verdict.outcome for item in items].count("incorrect") == 4
    assert {len(items) for name in by_problem for items in by_problem[name]} == {16, 64}


def test_every_chain_is_a_right_solution(made):
    from harness.core.config import parse_plugin
    from harness.core.types import Completion, Tokens

    grader = parse_plugin("tasks", "countdown").build().grader
    for one in made:
        verdicts = [
            grader.grade(one.problem, Completion("", 0, 0, chain, "stop", Tokens(0, 0))) for chain in one.chains
        ]
        assert [verdict.details["solution"] for verdict in verdicts] == list(one.solutions)
        assert len(set(one.solutions)) == 8


def test_a_wording_keeps_the_numbers_of_a_chain():
    from random import Random

    for seed in range(50):
        text = written("18/6=3;3-2=1", Random(seed))
        assert [int(n) for n in re.findall(r"\d+", re.sub(r"Step \d:", "", text))] in (
            [18, 6, 3, 3, 2, 1],
            [18, 6, 3, 2, 3, 1],
        )
    assert written("4*9=36;36+2=38") == written("4*9=36;36+2=38")


def test_exact_solutions_are_believed_and_wording_is_not(scenarios):
    found = {f.measure: f for name in ("hill_numbers", "coverage_at_n", "self_bleu", "distinct_n", "majority_share")
             for f in findings_of({"id": name}, scenarios)}  # fmt: skip
    for measure in ("hill0", "hill1", "hill2", "coverage_area", "majority_share"):
        assert found[measure].truth > 0.9 and found[measure].mixture
        assert (found[measure].reworded, found[measure].padded, found[measure].errors) == (0, 0, 0)
    assert found["1-self_bleu"].verdict() == AVOID and found["1-self_bleu"].reworded > 0.25
    assert found["distinct-4"].padded < -0.05  # it falls with length
    assert found["1-self_bleu_correct"].errors == 0 < found["1-self_bleu"].errors


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, BELIEVE),
        ({"truth": 0.7}, CARE),
        ({"truth": 0.5}, AVOID),
        ({"truth": None}, AVOID),
        ({"mixture": False}, CARE),
        ({"padded": -0.5}, CARE),
        ({"bias": 0.1}, CARE),
        ({"reworded": 0.1}, CARE),
        ({"reworded": 0.3}, AVOID),
        ({"errors": math.inf}, AVOID),
        ({"errors": None}, AVOID),
    ],
)
def test_verdict_rules(changed, verdict):
    good = {"truth": 0.95, "reworded": 0.0, "mixture": True, "padded": 0.01, "errors": 0.0, "bias": -0.02}
    assert Findings("m", **{**good, **changed}).verdict() == verdict


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=9))
def test_spearman_is_that_of_scipy(pairs):
    first, second = zip(*pairs, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) == 0
    else:
        assert spearman(first, second) == pytest.approx(scipy.stats.spearmanr(first, second).statistic, abs=1e-12)
    assert np.isfinite(spearman(first, second))


def test_validate_prints_a_verdict_for_each_measure_of_the_metric(capsys):
    (table,) = tables(capsys, "validate", "--metric", "hill_numbers", "--metric", "ead", "--limit", "4")
    assert [row["measure"] for row in table["rows"]] == ["hill0", "hill1", "hill2", "ead", "ead_correct"]
    assert table["rows"][0]["verdict"] == BELIEVE


def test_bad_requests_are_refused(capsys):
    assert "does not measure diversity" in output(capsys, "validate", "--metric", "avg_at_k", code=2).err
    assert "did you mean 'ead'" in output(capsys, "validate", "--metric", "eat", code=2).err
    assert "TASK" in output(capsys, "validate", code=2).err
    assert "--metric" in output(capsys, "validate", "countdown", "--metric", "ead", code=2).err


def test_the_results_that_reports_show_are_current():
    from harness.diversity.measures import measures
    from harness.diversity.validation import validate_metrics
    from harness.reports.tables.diversity_tests import RESULTS

    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    stored = {line.split("\t")[0]: line.split("\t") for line in lines[1:]}
    table = validate_metrics([{"id": name} for name in measures(with_models=False)])
    assert lines[0].split("\t") == list(table.columns)
    for row in table.rows:
        assert stored.pop(str(row[0])) == [str(cell) if cell is not None else "" for cell in row]
    assert all(name.startswith(("embedding_distance", "vendi_score")) for name in stored)


def test_the_page_has_the_stored_results_of_embeddings():
    tool = runpy.run_path(str(ROOT / "tools" / "make_metric_tests.py"))
    text = tool["PAGE"].read_text(encoding="utf-8")
    assert tool["page"](text, tool["kept"]()) == text
    rows = tool["kept"]().rows
    assert len(rows) == 4 and all("[" in row[1] for row in rows), "means of several runs with intervals"


# --- several runs -----------------------------------------------------------------------------------------------


def test_one_run_is_the_first_of_several(made):
    assert made_up_runs(made) == made_up_runs(made, 0) != made_up_runs(made, 1)


def test_figures_of_several_runs_are_means_and_lie_in_their_intervals(made):
    runs = [made_up_runs(made, seed) for seed in range(3)]
    alone = [next(f for f in findings_of({"id": "ead"}, run) if f.measure == "ead") for run in runs]
    both = next(f for f in findings_of({"id": "ead"}, *runs) if f.measure == "ead")
    assert both.truth == pytest.approx(np.mean([one.truth for one in alone]))
    assert min(one.reworded for one in alone) <= both.reworded <= max(one.reworded for one in alone)
    assert set(both.intervals) == {"truth", "reworded", "padded", "errors", "bias"}
    for name, (low, high) in both.intervals.items():
        assert low <= getattr(both, name) <= high
    assert not alone[0].intervals
    assert both.intervals["truth"][0] < both.intervals["truth"][1]


def test_the_interval_of_a_mean_is_that_of_the_bootstrap_over_runs_and_problems():
    """A case whose draws can be counted: one problem in two runs, so the mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4."""
    tables = [{kind: {"p": value} for kind in KINDS} for value in (0.0, 1.0)]
    assert validation._intervals("any", tables)["truth"] == (0.0, 1.0)
    alike = [{kind: {p: place for place, p in enumerate("pqrs")} for kind in KINDS} for _ in range(4)]
    low, high = validation._intervals("any", alike)["truth"]
    means = np.random.default_rng(0).choice(4, size=(20_000, 4)).mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.26)


def test_validate_with_several_runs_prints_intervals(capsys):
    (table,) = tables(capsys, "validate", "--metric", "ead", "--limit", "3", "--runs", "2")
    assert all(re.fullmatch(r"0\.\d\d \[0\.\d\d, 1?0?\.\d\d\]", row["truth"]) for row in table["rows"])
    assert "Means of 2 runs" in " ".join(table["notes"])
