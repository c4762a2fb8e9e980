"""Variance components and plans against simulation and against the formulas written out."""

import math

import numpy as np
import pytest
import scipy.stats

from harness.stats.intervals import pass_at_k
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
    with pytest.raises(ValueError, match="2 graded samples of each"):
        components([[(1, 1), (0, 1)]], [[(1, 2), (0, 2)]])
    with pytest.raises(ValueError, match="two problems"):
        components([[(1, 2)]], [[(1, 2)]])


def pass_variance(rate, n, k):
    """The variance of the estimator of pass@k from n samples, over all numbers of right samples."""
    c = np.arange(n + 1)
    weights, values = scipy.stats.binom.pmf(c, n, rate), pass_at_k(np.full(n + 1, n), c, k)
    return float(weights @ values**2 - (weights @ values) ** 2)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 1), (4, 4), (5, 4), (8, 4), (16, 4), (64, 4), (40, 8)])
def test_the_noise_of_pass_at_k_is_that_of_the_binomial(n, k):
    rates = [0.05, 0.3, 0.8]
    powers = [sum((1 - rate) ** r for rate in rates) / 3 for r in range(k, 2 * k + 1)]
    seen = Components(0.0, powers[0] - powers[k], 0.0, k, powers)
    assert seen.noise(n) == pytest.approx(np.mean([pass_variance(rate, n, k) for rate in rates]), rel=1e-9)


def clustered(rng, n_clusters, size):
    """Draw rates of two models whose difference has a part of the cluster and one of the problem."""
    skill = rng.beta(2, 3, size=(n_clusters, size))
    shift = rng.normal(0, 0.12, size=(n_clusters, 1)) + rng.normal(0, 0.06, size=(n_clusters, size))
    return skill.ravel(), np.clip(skill + shift, 0.01, 0.99).ravel()


@pytest.mark.parametrize(("k", "is_clustered"), [(1, True), (4, True), (4, False)])
def test_the_error_of_a_plan_is_that_of_repeated_comparisons(k, is_clustered):
    """Planned from comparisons of 40 clusters and 12 samples: the error of one with 60 clusters and 9 samples."""
    rng = np.random.default_rng(8)
    size = 4 if is_clustered else 1

    def compared(n_clusters, n):
        rates = clustered(rng, n_clusters, size)
        return [rng.binomial(n, side) for side in rates]

    planned = []
    for _ in range(150):
        first, second = (([(int(c), 12) for c in side],) for side in compared(40, 12))
        seen = components(first, second, k, np.repeat(np.arange(40), size).tolist() if is_clustered else None)
        planned.append(seen.error(60 * size, 9) ** 2)
    found = [np.mean(pass_at_k(9, b, k) - pass_at_k(9, a, k)) for a, b in (compared(60, 9) for _ in range(3000))]
    assert np.mean(planned) == pytest.approx(np.var(found, ddof=1), rel=0.1)


def test_clusters_that_are_ignored_promise_too_much():
    rng = np.random.default_rng(2)
    first, second = (([(int(c), 12) for c in rng.binomial(12, side)],) for side in clustered(rng, 60, 5))
    clusters = np.repeat(np.arange(60), 5).tolist()
    needed = [components(first, second, 1, some).problems_needed(0.03, 8) for some in (None, clusters)]
    assert needed[1] > 1.5 * needed[0]


def test_planning_pass_at_k_refuses_fewer_than_twice_k_samples():
    with pytest.raises(ValueError, match="planning pass@4 needs two problems, and 8 graded samples of each"):
        components([[(1, 7), (0, 8)]], [[(1, 8), (0, 8)]], 4)
