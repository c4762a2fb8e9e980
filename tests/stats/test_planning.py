"""Variance components and plans against simulation and against the formulas written out."""

import math

import numpy as np
import pytest
import scipy.stats

from harness.stats.planning import Components, components, factor


def counts(rng, rates, n):
    return [[(int(c), n) for c in rng.binomial(n, run)] for run in rates]


def test_components_are_unbiased_over_simulated_comparisons():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(400):
        skill = rng.beta(2, 2, size=40)
        shift = rng.normal(0, 0.1, size=40)
        first = [np.clip(skill + rng.normal(0, 0.03), 0.01, 0.99) for _ in range(3)]
        second = [np.clip(skill + shift + rng.normal(0, 0.03), 0.01, 0.99) for _ in range(3)]
        seen = components(counts(rng, first, 6), counts(rng, second, 6))
        found.append((seen.between, seen.samples, seen.seeds))
    between, samples, seeds = np.mean(found, axis=0)
    assert between == pytest.approx(0.1**2, rel=0.15)
    assert samples == pytest.approx(2 * 0.2, rel=0.05)  # E p (1 - p) of Beta(2, 2) is 0.2
    # Estimates below 0 are cut off, so that the mean is a little above 2 x 0.03^2.
    assert 0.0016 < seeds < 0.0024


def test_a_planned_comparison_has_its_power():
    seen = Components(between=0.01, samples=0.4, seeds=0.0)
    n_problems = seen.problems_needed(0.05, n_samples=8, power=0.8)
    error = math.sqrt((0.01 + 0.4 / 8) / n_problems)
    rng = np.random.default_rng(5)
    drawn = rng.normal(0.05, error, size=100_000)
    assert np.mean(np.abs(drawn) > scipy.stats.norm.ppf(0.975) * error) == pytest.approx(0.8, abs=0.01)
    assert seen.error(n_problems, 8) == pytest.approx(error)


def test_plans_are_the_smallest_that_suffice():
    seen = Components(between=0.02, samples=0.35, seeds=0.0002)
    for power in (0.5, 0.8, 0.9):
        for n_runs in (1, 3):
            m = seen.problems_needed(0.06, 4, n_runs, power)
            reached = [factor(power) * seen.error(problems, 4, n_runs) for problems in (m, m - 1)]
            assert reached[0] <= 0.06 < reached[1]
            n = seen.samples_needed(0.08, 200, n_runs, power)
            assert n is not None
            assert factor(power) * seen.error(200, n, n_runs) <= 0.08
            assert n == 1 or factor(power) * seen.error(200, n - 1, n_runs) > 0.08


def test_what_no_number_of_problems_or_samples_finds_is_none():
    assert Components(0.0, 0.3, seeds=0.01).problems_needed(0.02, 64) is None
    assert Components(0.05, 0.3, 0.0).samples_needed(0.01, 30) is None


def test_one_run_a_side_has_no_component_of_seeds():
    rng = np.random.default_rng(1)
    seen = components(counts(rng, [rng.random(30)], 4), counts(rng, [rng.random(30)], 4))
    assert seen.seeds == 0


def test_planning_refuses_single_samples_and_single_problems():
    with pytest.raises(ValueError, match="two graded samples"):
        components([[(1, 1), (0, 1)]], [[(1, 2), (0, 2)]])
    with pytest.raises(ValueError, match="two problems"):
        components([[(1, 2)]], [[(1, 2)]])
