"""Tests of means over several sets and of many pairs at once, against scipy and against the tests of single pairs."""

import itertools
import math

import numpy as np
import pytest

from harness.stats.distributions import t_quantile
from harness.stats.intervals import interval_over_runs, mean_interval
from harness.stats.paired_tests import crossed_test, mean_of_sets, seed_error, sign_flip, sign_flips, standard_error

stats = pytest.importorskip("scipy.stats")
RNG = np.random.default_rng(5)


def rates(n_runs, n_problems, rate=0.5):
    return RNG.binomial(8, rate, size=(n_runs, n_problems)) / 8


def test_one_set_with_one_run_a_side_is_the_paired_t_test():
    first, second = rates(1, 40), rates(1, 40, 0.6)
    found = mean_of_sets([first], [second], [None])
    expected = stats.ttest_rel(second[0], first[0])
    assert found.p_value() == pytest.approx(expected.pvalue, abs=1e-8)
    low, high = expected.confidence_interval(0.95)
    assert found.mean - found.margin() == pytest.approx(low, abs=1e-8)
    assert found.mean + found.margin() == pytest.approx(high, abs=1e-8)


def test_one_set_with_several_runs_is_the_crossed_test():
    first, second = rates(3, 40), rates(4, 40, 0.6)
    found = mean_of_sets([first], [second], [None])
    assert found.p_value() == pytest.approx(crossed_test(first, second).p, abs=1e-8)


def test_the_mean_over_sets_has_the_errors_of_its_sets():
    """By hand: errors are added as squares, and runs of several sets belong together."""
    first, second = [rates(3, 30), rates(3, 80)], [rates(3, 30, 0.7), rates(3, 80, 0.55)]
    found = mean_of_sets(first, second, [None, None])
    gaps = [b.mean(axis=0) - a.mean(axis=0) for a, b in zip(first, second, strict=True)]
    errors = [np.std(gap, ddof=1) / math.sqrt(gap.size) for gap in gaps]
    assert found.mean == pytest.approx(np.mean([gap.mean() for gap in gaps]))
    assert found.error == pytest.approx(math.hypot(*errors) / 2)
    assert found.df == pytest.approx(
        (errors[0] ** 2 + errors[1] ** 2) ** 2 / (errors[0] ** 4 / 29 + errors[1] ** 4 / 79)
    )
    by_run = [[np.mean([of_set[run].mean() for of_set in side]) for run in range(3)] for side in (first, second)]
    assert found.seeds.error == pytest.approx(seed_error(*by_run).error)
    of_runs = t_quantile(0.95, found.seeds.df) * found.seeds.error
    assert found.margin() == pytest.approx(math.hypot(t_quantile(0.95, found.df) * found.error, of_runs))


def test_sets_with_other_numbers_of_runs_have_independent_errors():
    first, second = [rates(2, 30), rates(3, 80)], [rates(2, 30), rates(3, 80)]
    found = mean_of_sets(first, second, [None, None]).seeds
    parts = [seed_error(a.mean(axis=1), b.mean(axis=1)) for a, b in zip(first, second, strict=True)]
    assert found.error == pytest.approx(math.hypot(parts[0].error, parts[1].error) / 2)
    assert found.df == min(part.df for part in parts)


def test_clusters_are_the_units_of_a_set():
    values, clusters = rates(1, 60), [number // 2 for number in range(60)]
    found = mean_of_sets(None, [values], [clusters])
    assert found.error == pytest.approx(standard_error(values[0], clusters))
    assert found.df == pytest.approx(29)
    assert found.seeds is None


def test_equal_sides_have_no_significant_difference():
    ones = np.ones((3, 12))
    assert crossed_test(ones, ones).p == 1.0
    assert mean_of_sets([ones], [ones], [None]).p_value() == 1.0
    noise = ones + 1e-17 * RNG.normal(size=(3, 12))
    assert crossed_test(ones, noise.clip(0, 1)).p == 1.0


def test_many_pairs_have_the_p_values_of_the_single_tests():
    rows = [rates(1, 60, rate)[0] for rate in (0.4, 0.5, 0.55, 0.6)]
    few = np.zeros(60)
    few[:6] = 0.25  # enumerated
    differences = np.array([b - a for a, b in itertools.combinations(rows, 2)] + [few, np.zeros(60)])
    together = sign_flips(differences)
    for row, p in zip(differences, together, strict=True):
        alone = sign_flip(row).p
        noise = 4 * math.sqrt(max(alone * (1 - alone), 1e-4) / 10_000)
        assert p == pytest.approx(alone, abs=2 * noise)
    assert together[-2:] == [2 / 2**6, 1.0]
    assert sign_flips(differences) == together
    assert sign_flips(np.zeros((0, 5))) == []


def test_the_interval_over_runs_adds_the_margin_over_runs():
    values = rates(4, 50)
    found, of_problems = interval_over_runs(values), mean_interval(values.mean(axis=0).tolist())
    means = values.mean(axis=1)
    margin = t_quantile(0.95, 3) * np.std(means, ddof=1) / 2
    assert found.low == pytest.approx(means.mean() - math.hypot(means.mean() - of_problems.low, margin))
    assert found.high == pytest.approx(means.mean() + math.hypot(of_problems.high - means.mean(), margin))
    assert interval_over_runs(values[:1]) == mean_interval(values[0].tolist())


def test_intervals_and_tests_hold_their_level():
    """In a small simulation, equal methods over two sets and three seeds differ in 5% of the draws at most."""
    n_found = 0
    for _ in range(200):
        hard = [RNG.beta(1, 2, size=30), RNG.beta(2, 1, size=60)]
        sides = [[RNG.binomial(8, np.broadcast_to(p, (3, p.size))) / 8 for p in hard] for _ in range(2)]
        n_found += mean_of_sets(sides[0], sides[1], [None, None]).p_value() < 0.05
    assert n_found / 200 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
