"""Estimators against exact arithmetic, intervals against scipy and against simulation."""

import math
import time
import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import scipy.stats

from harness.stats import intervals as stats
from harness.stats.intervals import (
    bootstrap_interval,
    g_pass_at_k,
    hierarchical_interval,
    hierarchical_means,
    mean_interval,
    pass_at_k,
    pass_hat_k,
    ratio_interval,
)

RATES = np.random.default_rng(11).beta(0.6, 0.9, size=200)


def brute_pass_at_k(n, c, k):
    subsets = list(combinations(range(n), k))
    return Fraction(sum(min(subset) < c for subset in subsets), len(subsets))


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample():
    for n in range(1, 9):
        for k in range(1, n + 1):
            found = pass_at_k([n] * (n + 1), range(n + 1), k)
            exact = [float(brute_pass_at_k(n, c, k)) for c in range(n + 1)]
            # At most 8 products of rounded quotients.
            assert found == pytest.approx(exact, rel=0, abs=1e-15 * 8)


def test_pass_at_k_is_exact_where_chance_has_no_part():
    for n in (1, 7, 1000, 10_000):
        assert pass_at_k(n, 0, n) == 0.0
        assert pass_at_k(n, n, 1) == 1.0
        assert pass_at_k(n, 1, n) == 1.0
    assert pass_at_k(9, 4, 6) == 1.0


def test_pass_at_k_is_safe_for_ten_thousand_samples():
    n = 10_000
    for c, k in ((1, 1), (3, 5000), (5000, 10), (9999, 1), (17, 256), (9000, 1000), (1, 9999)):
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        # k products, each off by half a unit in the last place at most.
        assert float(pass_at_k(n, c, k)) == pytest.approx(float(exact), rel=0, abs=max(1, k) * 3e-16)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 0), (4, 1, 5), (4, 5, 2), (4, -1, 2), ([4, 3], [1, 1], 4)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(n, c, k)


def test_the_bootstrap_agrees_with_scipy_and_with_theory():
    low, high = bootstrap_interval(RATES, seed=3)
    theirs = scipy.stats.bootstrap(
        (RATES,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(5)
    ).confidence_interval
    error = RATES.std() / math.sqrt(RATES.size)
    # A 2.5% quantile of 10,000 draws is off by 0.027 standard errors; 0.15 is four times that of a difference.
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.15 * error)
    assert (low, high) == pytest.approx((RATES.mean() - 1.96 * error, RATES.mean() + 1.96 * error), abs=0.15 * error)


def test_the_bootstrap_has_its_nominal_coverage():
    rng = np.random.default_rng(7)
    truth = 0.6 / 1.5
    data = rng.beta(0.6, 0.9, size=(600, 100))
    intervals = [bootstrap_interval(values, seed=1, draws=1000) for values in data]
    covered = sum(low <= truth <= high for low, high in intervals)
    # 570 are expected; the standard deviation of the count is 5.3.
    assert 550 <= covered <= 590


def test_interval_of_a_higher_level_is_wider():
    inner, outer = bootstrap_interval(RATES, seed=0, level=0.5), bootstrap_interval(RATES, seed=0, level=0.99)
    assert outer[0] < inner[0] < inner[1] < outer[1]
    # Of a normal mean: 2 x 0.674 standard errors.
    assert inner[1] - inner[0] == pytest.approx(1.349 * RATES.std() / math.sqrt(RATES.size), rel=0.05)


def test_bootstrap_draws_equal_values_together():
    """Few values: the number of each is multinomial, as if problems were drawn one by one."""
    values = np.repeat([0.0, 0.25, 1.0], [70, 20, 30])
    low, high = bootstrap_interval(values, seed=3)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.15 * scipy.stats.sem(values))
    assert bootstrap_interval(values[::-1], seed=3) == (low, high)


def test_the_bootstrap_depends_on_seed_alone(monkeypatch):
    once = bootstrap_interval(RATES, seed=3)
    assert bootstrap_interval(RATES[::-1], seed=3) == once
    assert bootstrap_interval(RATES, seed=4) != once
    monkeypatch.setattr(stats, "CHUNK_ELEMENTS", 1500)
    assert bootstrap_interval(RATES, seed=3) == once


def test_the_bootstrap_is_quick_and_small():
    values = np.random.default_rng(0).random(1000)
    began_s = time.process_time()
    bootstrap_interval(values, seed=0)
    assert time.process_time() - began_s < 1.0
    tracemalloc.start()
    bootstrap_interval(values, seed=0, draws=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf, 1.0]])
def test_the_bootstrap_refuses_empty_and_infinite_samples(values):
    with pytest.raises(ValueError, match="at least one value, and only finite ones"):
        bootstrap_interval(values, seed=0)


# --- means over problems ----------------------------------------------------------------------------------------


def spelled_out(values, upper=1.0):
    """The interval of unclustered problems with scipy and plain sums."""
    m, mean, error = len(values), np.mean(values), scipy.stats.sem(values)
    t = scipy.stats.t.ppf(0.975, m - 1)
    unseen = scipy.stats.binomtest(0, m).proportion_ci(0.95, method="exact").high
    skewness = np.clip(scipy.stats.skew(values) / math.sqrt(m), -0.3, 0.3)
    farthest = min(upper, max(1, 2 * max(values)))
    ends = []
    for side, end in ((-1, 0.0), (1, farthest)):
        away = [farthest - v if side < 0 else v for v in values]
        weight = np.clip((24 - sum(away) ** 2 / sum(v * v for v in away)) / 16, 0, 1)
        half = t * error + max(0, side * skewness) * (1 + 2 * t * t) / 6 * error
        ends.append(mean + side * math.hypot(half, weight * unseen * abs(end - mean)))
    return max(0.0, ends[0]), min(upper, ends[1])


@pytest.mark.parametrize(
    ("values", "upper"),
    [
        (RATES.tolist(), 1.0),
        ([1.0] * 28 + [0.5, 0.0], 1.0),
        ([0.0] * 27 + [0.25, 1.0, 1.0], 1.0),
        ([1.0] * 99 + [0.98], 1.0),
        ([3.0, 0.0, 2.0, 1.0, 5.0] * 4, 64.0),
        ([0.0] * 20 + [0.5], 64.0),
        ([0.25, 0.75], 1.0),
    ],
)
def test_the_interval_of_a_mean_is_its_formula(values, upper):
    interval = mean_interval(values, upper=upper)
    assert (interval.low, interval.high) == pytest.approx(spelled_out(values, upper), rel=1e-9, abs=1e-12)
    assert interval.method == f"95% t, skewness and unseen problems over {len(values)} problems"


def test_the_order_of_problems_changes_no_bit_of_an_interval():
    assert mean_interval(RATES[::-1].tolist()) == mean_interval(RATES.tolist())


def test_many_problems_with_different_rates_have_the_t_interval():
    values = np.linspace(0.3, 0.7, 500)  # no skewness
    half = scipy.stats.t.ppf(0.975, 499) * scipy.stats.sem(values)
    interval = mean_interval(values.tolist())
    assert (interval.low, interval.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-9)


@pytest.mark.parametrize(("value", "upper"), [(0.0, 1.0), (1.0, 1.0), (0.3, 1.0), (0.0, 16.0), (16.0, 16.0)])
def test_problems_of_one_value_have_the_clopper_pearson_interval(value, upper):
    """At most a share of all problems may have another value, and that lies between 0 and the largest."""
    interval = mean_interval([value] * 30, upper=upper)
    others = scipy.stats.binomtest(0, 30).proportion_ci(0.95, method="exact").high
    expected = ((1 - others) * value, (1 - others) * value + others * upper)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert interval.method == "95% Clopper-Pearson over 30 problems, all of one value"


@pytest.mark.parametrize("n_wrong", range(5))
def test_a_few_unsolved_problems_bound_the_mean_about_as_clopper_pearson(n_wrong):
    theirs = scipy.stats.binomtest(30 - n_wrong, 30).proportion_ci(0.95, method="exact")
    interval = mean_interval([0.0] * n_wrong + [1.0] * (30 - n_wrong))
    assert interval.low == pytest.approx(theirs.low, abs=0.02)
    assert interval.high >= theirs.high - 1e-12


def test_values_that_differ_by_rounding_are_equal():
    assert "Clopper-Pearson" in mean_interval([0.3, 0.1 + 0.2, 0.3]).method


@pytest.mark.parametrize("upper", [1.0, 16.0])
def test_a_single_problem_has_the_whole_range(upper):
    interval = mean_interval([0.5], upper=upper)
    assert (interval.low, interval.high) == (0.0, upper)
    assert "one problem" in interval.method


@pytest.mark.parametrize("values", [[], [0.5, 1.5], [-0.1, 0.5], [0.5, math.nan]])
def test_mean_interval_refuses_values_out_of_range(values):
    with pytest.raises(ValueError, match=r"between 0 and 1\.0"):
        mean_interval(values)


def test_clusters_are_the_units_where_there_are_enough():
    rates = np.repeat(np.random.default_rng(2).random(25), 4)
    clusters = np.repeat(np.arange(25), 4).tolist()
    found = mean_interval(rates.tolist(), clusters=clusters)
    # All of a cluster are alike, so they are as one.
    once = mean_interval(rates[::4].tolist())
    assert (found.low, found.high) == pytest.approx((once.low, once.high), rel=1e-12)
    assert found.method == "95% t, skewness and unseen problems over 25 clusters of 100 problems"
    order = np.random.default_rng(3).permutation(100)
    again = mean_interval(rates[order].tolist(), clusters=[clusters[i] for i in order])
    assert (again.low, again.high) == pytest.approx((found.low, found.high), rel=1e-12)
    for others in (list(range(100)), [c % 19 for c in clusters]):
        assert mean_interval(rates.tolist(), clusters=others) == mean_interval(rates.tolist())


def test_clusters_of_different_sizes_weigh_by_their_problems():
    """Against the linearised ratio estimator: deviations sum_c - mean x size_c, in mean sizes."""
    rng = np.random.default_rng(12)
    sizes = rng.integers(1, 5, size=40)
    values, clusters = rng.random(sizes.sum()), np.repeat(np.arange(40), sizes).tolist()
    deviations = np.array([(values[np.equal(clusters, c)] - values.mean()).sum() for c in range(40)]) / sizes.mean()
    half = scipy.stats.t.ppf(0.975, 39) * scipy.stats.sem(deviations)
    found = mean_interval(values.tolist(), clusters=clusters)
    skewness = np.clip(scipy.stats.skew(deviations) / math.sqrt(40), -0.3, 0.3)
    factor = (1 + 2 * scipy.stats.t.ppf(0.975, 39) ** 2) / 6
    narrow, wide = half, half + abs(skewness) * factor * scipy.stats.sem(deviations)
    expected = (narrow, wide) if skewness > 0 else (wide, narrow)
    assert (values.mean() - found.low, found.high - values.mean()) == pytest.approx(expected, rel=1e-9)


# --- all right, and most right ----------------------------------------------------------------------------------


def test_pass_hat_k_is_the_share_of_subsets_that_are_all_right():
    for n in range(1, 9):
        for k in range(1, n + 1):
            exact = [math.comb(c, k) / math.comb(n, k) for c in range(n + 1)]
            assert pass_hat_k([n] * (n + 1), range(n + 1), k) == pytest.approx(exact, rel=0, abs=1e-14)


def test_g_pass_at_k_is_the_survival_of_the_hypergeometric():
    for n, k in ((1, 1), (6, 4), (16, 8), (64, 64), (5000, 900)):
        for c in sorted({0, 1, n // 3, n // 2, n}):
            for needed in sorted({1, (k + 1) // 2, k}):
                theirs = scipy.stats.hypergeom.sf(needed - 1, n, c, k)
                assert g_pass_at_k(n, c, k, needed) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k", "needed"), [(4, 1, 5, 1), (4, 5, 2, 1), (4, 1, 2, 0), (4, 1, 2, 3)])
def test_g_pass_at_k_refuses_impossible_counts(n, c, k, needed):
    with pytest.raises(ValueError, match="needed <= k <= n"):
        g_pass_at_k(n, c, k, needed)


# --- levels -----------------------------------------------------------------------------------------------------


def enumerated_means(problems):
    """Every draw of problems and, in each drawn one, every draw of its samples, with its exact chance."""
    chances = Counter()
    for chosen in product(problems, repeat=len(problems)):
        draws = [list(product(samples, repeat=len(samples))) for samples in chosen]
        weight = Fraction(1, len(problems) ** len(problems) * math.prod(map(len, draws)))
        for drawn in product(*draws):
            chances[sum(Fraction(sum(s), len(s)) for s in drawn) / len(problems)] += weight
    return chances


def test_the_hierarchical_bootstrap_has_the_distribution_of_explicit_draws():
    problems = [(1, 0, 0), (1, 1), (1, 0)]
    exact = enumerated_means(problems)
    assert sum(exact.values()) == 1
    means = hierarchical_means([sum(p) for p in problems], [len(p) for p in problems], seed=0, draws=200_000)
    found = Counter(Fraction(value).limit_denominator(100) for value in means)
    assert set(found) <= set(exact)
    expected = [float(chance) * 200_000 for chance in exact.values()]
    # One draw in a thousand of a right program would fail; the seed is fixed.
    assert scipy.stats.chisquare([found[value] for value in exact], expected).pvalue > 1e-3


def test_the_hierarchical_bootstrap_draws_seeds_too():
    """Crossed: the problems drawn are the same in every seed drawn, the samples are not."""
    right, n = np.array([[1, 3, 0], [2, 3, 1]]), np.array([[4, 3, 2], [4, 5, 2]])
    rng = np.random.default_rng(1)
    plain = []
    for _ in range(20_000):
        problems, cells = rng.integers(3, size=3), []
        for s, i in product(rng.integers(2, size=2), problems):
            samples = np.arange(n[s, i]) < right[s, i]
            cells.append(rng.choice(samples, size=n[s, i]).mean())
        plain.append(np.mean(cells))
    assert scipy.stats.ks_2samp(plain, hierarchical_means(right, n, seed=3, draws=20_000)).pvalue > 1e-3


def test_the_hierarchical_bootstrap_groups_equal_cells_across_seeds():
    """Against draws without any grouping, of many problems with few different counts."""
    rng = np.random.default_rng(8)
    right, n = rng.integers(0, 3, size=(3, 40)), rng.integers(2, 4, size=(3, 40))
    plain = []
    for _ in range(20_000):
        seeds, problems = rng.integers(3, size=3), rng.integers(40, size=40)
        cells = np.ix_(seeds, problems)
        plain.append((rng.binomial(n[cells], right[cells] / n[cells]) / n[cells]).mean())
    assert scipy.stats.ks_2samp(plain, hierarchical_means(right, n, seed=3, draws=20_000)).pvalue > 1e-3


def test_a_hierarchical_interval_is_the_percentiles_and_depends_on_the_seed_alone():
    right = np.random.default_rng(1).integers(0, 17, size=60)
    means = hierarchical_means(right, 16, seed=5)
    assert hierarchical_interval(right, 16, seed=5) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert hierarchical_interval(right[::-1], 16, seed=5) == hierarchical_interval(right, 16, seed=5)
    assert hierarchical_interval(right, 16, seed=6) != hierarchical_interval(right, 16, seed=5)


def test_the_hierarchical_bootstrap_needs_little_memory():
    right = np.random.default_rng(0).integers(0, 65, size=1000)
    tracemalloc.start()
    hierarchical_means(right, np.arange(64, 1064), seed=0, draws=4_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize(("right", "n"), [([], []), ([0], [0]), ([-1], [2]), ([3], [2])])
def test_the_hierarchical_bootstrap_refuses_impossible_counts(right, n):
    with pytest.raises(ValueError, match="0 <= right <= n"):
        hierarchical_means(right, n, seed=0)


# --- ratios -----------------------------------------------------------------------------------------------------


def test_a_ratio_agrees_with_scipy():
    rng = np.random.default_rng(2)
    tops, bottoms = rng.gamma(3, 100, size=80), rng.integers(0, 9, size=80)
    theirs = scipy.stats.bootstrap(
        (tops, bottoms),
        lambda x, y, axis: x.sum(axis) / y.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(9),
    ).confidence_interval
    found = ratio_interval(tops, bottoms)
    width = theirs.high - theirs.low
    # 0.15 standard errors, of which the interval is four.
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.15 * width / 4)
    order = rng.permutation(80)
    assert ratio_interval(tops[order], bottoms[order]) == found


def test_a_ratio_without_enough_denominators_is_unbounded_above():
    low, high = ratio_interval([5.0] * 30, [1] + [0] * 29)
    assert math.isfinite(low)
    assert math.isinf(high)


@pytest.mark.parametrize(("tops", "bottoms"), [([], []), ([1.0], [0.0]), ([-1.0], [1.0]), ([math.nan], [1.0])])
def test_ratio_interval_refuses_values_without_a_ratio(tops, bottoms):
    with pytest.raises(ValueError, match="a ratio needs"):
        ratio_interval(tops, bottoms)
