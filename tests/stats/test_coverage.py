"""Coverage of the intervals on a few cells of the grid of tools/coverage_of_intervals.py, with fixed seeds."""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest

from harness.stats.paired_tests import crossed_test, sign_flip

SETS = 400
"""The standard error of a coverage of 95% is 1.1 points."""


@cache
def simulation():
    path = Path(__file__).parents[2] / "tools" / "coverage_of_intervals.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", path)
    module = sys.modules["coverage_of_intervals"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell_of(kind, rates, problems, samples, k, detail=""):
    grid = simulation()
    grid.TRUTH_DRAWS = 200_000  # enough for a tenth of the narrowest interval
    keep = {"PAIRED_RATES": (rates,), "RUN_RATES": (rates,), "DISTINCT_RATES": (rates,)}
    old = {name: getattr(grid, name) for name in keep}
    try:
        vars(grid).update(keep)
        cells = list(grid.CELLS[kind]())
    finally:
        vars(grid).update(old)
    wanted = (rates, problems, samples, k)
    return next(c for c in cells if (c.rates, c.n_problems, c.n_samples, c.k) == wanted and c.detail.startswith(detail))


@pytest.mark.parametrize(
    ("rates", "problems", "samples", "k"),
    [
        ("Beta(4,4)", 30, 16, 8),  # the bootstrap over problems covered 76%
        ("Beta(3,1.5)", 30, 16, 8),  # 71%
        ("Beta(8,2)", 30, 16, 8),  # 46%
        ("97% Beta(8,2), 3% never", 30, 64, 4),
        ("95% never, 5% Beta(3,1.5)", 30, 16, 1),
        ("all solved", 30, 4, 4),
        ("Beta(.15,1.35)", 30, 16, 1),  # like AIME
        ("Beta(.6,.9)", 100, 16, 1),
    ],
)
def test_intervals_of_pass_at_k_cover(rates, problems, samples, k):
    row = simulation().simulate(cell_of("pass", rates, problems, samples, k), SETS)
    assert row["coverage"] >= 0.93 - 2 * row["mc_error"]
    assert row["width_ratio"] <= 1.3


@pytest.mark.parametrize(("rates", "k"), [("Beta(8,2)", 16), ("95% never, 5% Beta(3,1.5)", 4)])
def test_intervals_of_distinct_at_k_cover(rates, k):
    row = simulation().simulate(cell_of("distinct", rates, 30, 16, k), SETS)
    assert row["coverage"] >= 0.93 - 2 * row["mc_error"]
    assert row["width_ratio"] <= 1.3


@pytest.mark.parametrize(
    ("rates", "k", "shift"),
    [("Beta(8,2)", 4, "shift 0.5"), ("Beta(8,2)", 16, "shift 0.5"), ("Beta(.6,.9)", 1, "shift 0")],
)
def test_intervals_of_paired_differences_cover(rates, k, shift):
    """Where both runs solve nearly everything, the bootstrap over problems covered 0 to 90%."""
    row = simulation().simulate(cell_of("paired", rates, 30, 16, k, shift), SETS)
    assert row["coverage"] >= 0.93 - 2 * row["mc_error"]
    assert row["width_ratio"] <= 1.3


@pytest.mark.parametrize("n_runs", [2, 3, 5])
@pytest.mark.parametrize("effects", ["seeds 0.3 and 0.3", "seeds 0 and 0.3"])
def test_intervals_over_runs_cover_and_their_test_keeps_its_level(n_runs, effects):
    """The bootstrap over runs covered 78, 87 and 93%, and the sign-flip test rejected in 57% of the cases."""
    import numpy as np

    cell = cell_of("runs", "Beta(.6,.9)", 96, 16, 1, f"{n_runs} runs a side, {effects}")
    row = simulation().simulate(cell, SETS)
    assert row["coverage"] >= 0.93 - 2 * row["mc_error"]
    if effects == "seeds 0.3 and 0.3":  # else the means differ a little
        rng = np.random.default_rng(1)
        data = [cell.draw(rng) for _ in range(100)]
        assert sum(crossed_test(*sides).p <= 0.05 for sides in data) <= 12  # Binomial(100, 0.05) is, in 99.9%
        flipped = [sign_flip(two.mean(axis=0) - one.mean(axis=0), draws=400).p for one, two in data]
        assert sum(p <= 0.05 for p in flipped) >= 40
