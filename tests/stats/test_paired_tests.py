"""Paired statistics against enumeration, the definitions written out, scipy, and simulation."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from harness.stats import intervals, paired_tests
from harness.stats.paired_tests import (
    crossed_interval,
    crossed_test,
    detectable,
    difference_interval,
    holm,
    mcnemar,
    regrouped,
    seed_error,
    sign_flip,
    standard_error,
)

RNG = np.random.default_rng(5)
DIFFERENCES = RNG.choice([-1, -0.5, 0, 0.25, 1], size=300, p=[0.1, 0.2, 0.3, 0.2, 0.2])


def enumerated_p(differences):
    """The share of all sign patterns, zeros included, whose sum is as far from 0; the numbers are exact halves."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed for total in sums) / len(sums)


# --- standard errors --------------------------------------------------------------------------------------------


def test_the_plain_standard_error_agrees_with_scipy():
    assert standard_error(DIFFERENCES) == pytest.approx(scipy.stats.sem(DIFFERENCES), rel=1e-12)


def test_the_clustered_standard_error_is_the_double_sum():
    values, clusters = [0.0, 1.0, 0.5, 0.25, 1.0, 0.75], ["a", "b", "a", "c", "b", "a"]
    mean = sum(values) / 6
    double_sum = sum(
        (values[i] - mean) * (values[j] - mean)
        for i, j in itertools.product(range(6), repeat=2)
        if clusters[i] == clusters[j]
    )
    assert standard_error(values, clusters) == pytest.approx(math.sqrt(double_sum * 3 / 2) / 6, rel=1e-12)


def test_clustered_copies_of_a_value_add_no_precision():
    once = standard_error([0.0, 1.0, 0.5, 1.0])
    copied = standard_error(np.repeat([0.0, 1.0, 0.5, 1.0], 8), np.repeat(np.arange(4), 8).tolist())
    assert copied == pytest.approx(once, rel=1e-12)


@pytest.mark.parametrize(("values", "clusters"), [([1.0], None), ([1.0, 2.0], ["a", "a"]), ([1.0, 2.0], ["a"])])
def test_a_standard_error_needs_two_clusters(values, clusters):
    with pytest.raises(ValueError, match="two clusters"):
        standard_error(values, clusters)


# --- intervals of a difference ----------------------------------------------------------------------------------


def spelled_out(differences):
    m, mean, error = len(differences), np.mean(differences), scipy.stats.sem(differences)
    t = scipy.stats.t.ppf(0.975, m - 1)
    unseen = scipy.stats.binomtest(0, m).proportion_ci(0.95, method="exact").high
    skewness = np.clip(scipy.stats.skew(differences) / math.sqrt(m), -0.3, 0.3)
    number = sum(map(abs, differences)) ** 2 / sum(d * d for d in differences)
    weight = np.clip((5 - number) / 3, 0, 1)
    return tuple(
        mean
        + side
        * math.hypot((t + max(0, side * skewness) * (1 + 2 * t * t) / 6) * error, weight * unseen * (1 - side * mean))
        for side in (-1, 1)
    )


@pytest.mark.parametrize(
    "differences",
    [DIFFERENCES.tolist(), [0.0] * 29 + [0.25], [0.0] * 96 + [0.5, 0.25, -0.25, 1.0], [0.125, -0.5, 0.25] * 10],
)
def test_the_interval_of_a_difference_is_its_formula(differences):
    interval = difference_interval(differences)
    assert (interval.low, interval.high) == pytest.approx(spelled_out(differences), rel=1e-9)
    assert interval.method == f"95% t, skewness and unseen problems over {len(differences)} problems"


@pytest.mark.parametrize("value", [-1.0, -0.25, 0.0, 1.0])
def test_equal_differences_have_an_interval_of_some_width(value):
    interval = difference_interval([value] * 30)
    most_others = scipy.stats.binomtest(0, 30).proportion_ci(0.95, method="exact").high
    # That share of problems lies at the one end or at the other.
    assert interval.low == pytest.approx((1 - most_others) * value - most_others)
    assert interval.high == pytest.approx((1 - most_others) * value + most_others)
    assert "all of one value" in interval.method


def test_one_difference_is_the_whole_range():
    assert (difference_interval([0.5]).low, difference_interval([0.5]).high) == (-1.0, 1.0)


@pytest.mark.parametrize("values", [[], [1.5], [math.nan, 0.0]])
def test_differences_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="between -1 and 1"):
        difference_interval(values)


# --- runs as a level --------------------------------------------------------------------------------------------


SKILL = np.random.default_rng(4).random(25)


def some_runs(n, seed):
    rng = np.random.default_rng(seed)
    return np.clip(SKILL + rng.normal(0, 0.2, (n, 25)) + rng.normal(0, 0.1, (n, 1)), 0, 1)


def test_the_margin_over_runs_is_welchs_and_is_added_by_squares():
    first, second = some_runs(3, 1), some_runs(4, 2)
    found = crossed_interval(first, second)
    over_problems = difference_interval(second.mean(axis=0) - first.mean(axis=0))
    welch = scipy.stats.ttest_ind(second.mean(axis=1), first.mean(axis=1), equal_var=False)
    mean = second.mean() - first.mean()
    of_runs = welch.confidence_interval(0.95).high - mean
    assert found.low == pytest.approx(mean - math.hypot(mean - over_problems.low, of_runs), rel=1e-9)
    assert found.high == pytest.approx(mean + math.hypot(over_problems.high - mean, of_runs), rel=1e-9)
    assert found.method == "95% t, skewness and unseen problems over 25 problems and 3 and 4 runs (Welch)"
    turned = crossed_interval(second, first)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), rel=1e-12)


def test_runs_that_differ_alone_have_welchs_interval_and_p():
    """All problems alike: nothing is left but the runs."""
    first, second = ([[level] * 400 for level in side] for side in ([0.2, 0.3, 0.25], [0.4, 0.45]))
    welch = scipy.stats.ttest_ind([0.4, 0.45], [0.2, 0.3, 0.25], equal_var=False)
    assert crossed_test(first, second).p == pytest.approx(welch.pvalue, rel=1e-6)
    error = seed_error([0.2, 0.3, 0.25], [0.4, 0.45])
    assert (error.error, error.df) == pytest.approx((0.175 / welch.statistic, welch.df), rel=1e-9)


def test_equal_runs_leave_the_t_test_over_problems():
    rates = np.random.default_rng(4).random(40)
    test = crossed_test([rates / 2] * 3, [rates**2] * 3)
    assert test.p == pytest.approx(scipy.stats.ttest_rel(rates**2, rates / 2).pvalue, rel=1e-6)


def test_the_crossed_p_value_is_the_level_whose_margins_reach_zero():
    first, second = some_runs(3, 1), some_runs(3, 2) + 0.05
    p = crossed_test(first, second).p
    differences = second.mean(axis=0) - first.mean(axis=0)
    seeds = seed_error(first.mean(axis=1), second.mean(axis=1))
    margins = (
        scipy.stats.t.ppf(1 - p / 2, 24) * scipy.stats.sem(differences),
        scipy.stats.t.ppf(1 - p / 2, seeds.df) * seeds.error,
    )
    assert math.hypot(*margins) == pytest.approx(abs(differences.mean()), rel=1e-6)


def test_a_single_run_is_given_the_variance_of_the_other_side():
    error = seed_error([0.5], [0.2, 0.3, 0.25])
    assert (error.error, error.df) == pytest.approx((math.sqrt(np.var([0.2, 0.3, 0.25], ddof=1) * (1 + 1 / 3)), 2))
    assert seed_error([0.5], [0.25]) is None
    assert crossed_test([[0.5, 0.25]], [[0.5, 0.75]]) is None
    assert crossed_test([[0.5], [0.25]], [[0.5], [0.75]]) is None


def test_one_run_a_side_has_the_interval_of_a_difference():
    first, second = some_runs(1, 1), some_runs(1, 2)
    assert crossed_interval(first[0], second[0]) == difference_interval((second - first)[0])
    assert crossed_interval([[0.5] * 30] * 2, [[0.75] * 30] * 3).low == difference_interval([0.25] * 30).low
    assert crossed_interval([[0.5], [0.25]], [[1.0]]).low == -1.0


def test_clusters_are_the_units_of_a_difference():
    rng = np.random.default_rng(12)
    values = np.repeat(rng.random(30), 3)
    clusters = np.repeat(np.arange(30), 3).tolist()
    found, once = crossed_interval(np.zeros(90), values, clusters), difference_interval(values[::3])
    assert (found.low, found.high) == pytest.approx((once.low, once.high), rel=1e-12)
    assert "over 30 clusters of 90 problems" in found.method
    # Problems of one cluster are alike here, so that they are worth no more than one.
    single = difference_interval(values)
    assert found.high - found.low > 1.6 * (single.high - single.low)
    both = crossed_interval(np.zeros((2, 90)), [values, values], clusters)
    assert (both.low, both.high) == pytest.approx((found.low, found.high), rel=1e-12)


def test_the_permutation_test_agrees_with_scipy():
    rng = np.random.default_rng(6)
    for _ in range(4):
        first, second = rng.random(3), rng.random(3) + 0.3
        theirs = scipy.stats.permutation_test(
            (first, second), lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis), n_resamples=np.inf
        )
        assert regrouped(first, second).p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert regrouped([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]).p == 2 / 20


def test_the_permutation_test_takes_groups_of_different_size():
    runs = [0.1, 0.5, 0.625, 0.75]
    gaps = [abs(run - (sum(runs) - run) / 3) for run in runs]
    assert [regrouped([run], [*runs[:i], *runs[i + 1 :]]).p for i, run in enumerate(runs)] == [
        sum(other >= gap - 1e-12 for other in gaps) / 4 for gap in gaps
    ]
    assert regrouped([0.5], [0.5]).p == 1.0


def test_the_permutation_test_of_many_runs_is_seeded(monkeypatch):
    rng = np.random.default_rng(6)
    first, second = rng.random(8), rng.random(8) + 0.25
    exact = regrouped(first, second)
    monkeypatch.setattr(paired_tests, "MOST_EXACT", 3)
    drawn = regrouped(first, second, seed=1)
    assert drawn.p == pytest.approx(exact.p, abs=4 * math.sqrt(exact.p / 10_000) + 1e-4)
    assert drawn.method == "10000 groupings of the runs, seed 1"


@pytest.mark.parametrize(("first", "second"), [([], [1.0]), ([math.nan], [1.0])])
def test_the_permutation_test_refuses_empty_and_infinite_groups(first, second):
    with pytest.raises(ValueError, match="each group of runs"):
        regrouped(first, second)


# --- tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_the_sign_flip_enumerates_few_signs(seed):
    values = np.random.default_rng(seed).choice([-1, -0.5, 0, 0.25, 1], size=9).tolist()
    found = sign_flip(values)
    assert found.p == enumerated_p(values)
    assert found.method == f"all {2 ** np.count_nonzero(values)} signs"


def test_the_sign_flip_agrees_with_scipy():
    values = np.random.default_rng(3).normal(0.4, 1, size=12)
    theirs = scipy.stats.permutation_test(
        (values,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert sign_flip(values).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flip_p_value_ignores_zeros():
    assert sign_flip([1, 1, -1, 1, 0, 0, 0]).p == sign_flip([1, 1, -1, 1]).p == 10 / 16
    assert sign_flip([0.0] * 40).p == 1.0


def test_sign_flip_treats_reordered_sums_as_equal():
    """0.1 + 0.2 + 0.3 differs in its last place by the order, and all signs alike are two patterns of eight."""
    for order in itertools.permutations([0.1, 0.2, 0.3]):
        assert sign_flip(order).p == 2 / 8


def test_the_sign_flip_of_many_differences_is_seeded(monkeypatch):
    values = RNG.normal(0.15, 1, size=200)
    found = sign_flip(values, seed=1)
    # In law the sum of signs is all but normal: z of the uncentred second moment.
    z = abs(values.sum()) / math.sqrt(values @ values)
    p = 2 * scipy.stats.norm.sf(z)
    # Four standard deviations of 10,000 draws.
    assert found.p == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 10_000))
    assert found.method == "10000 draws of signs, seed 1"
    assert sign_flip(values[::-1], seed=1) == found
    assert sign_flip(values, seed=2) != found
    monkeypatch.setattr(paired_tests, "CHUNK_ELEMENTS", 700)
    assert sign_flip(values, seed=1) == found


def test_a_drawn_p_value_is_never_zero():
    assert sign_flip([1.0] * 100).p == 1 / 10_001


def test_drawn_and_enumerated_signs_agree(monkeypatch):
    values = RNG.choice([-1, 1, 0.5], size=16, p=[0.2, 0.5, 0.3])
    exact = sign_flip(values).p
    monkeypatch.setattr(paired_tests, "MOST_EXACT", 3)
    assert sign_flip(values).p == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000) + 1e-4)


def test_the_sign_flip_has_its_nominal_error_rate():
    rng = np.random.default_rng(8)
    p_values = [sign_flip(rng.choice([-1.0, 0.0, 1.0], size=14)).p for _ in range(1000)]
    # At most 5% of the time, the test being discrete; 50 are expected at most, with a standard deviation of 7.
    assert 10 <= sum(p <= 0.05 for p in p_values) <= 75


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_the_sign_flip_refuses_empty_and_infinite_differences(values):
    with pytest.raises(ValueError, match="at least one difference"):
        sign_flip(values)


def test_mcnemar_is_the_binomial_test_of_the_differing_problems():
    for first, second in itertools.product(range(9), repeat=2):
        expected = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
        assert mcnemar(first, second) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(900, 1100) == pytest.approx(scipy.stats.binomtest(900, 2000).pvalue, rel=1e-9)


def test_mcnemar_is_the_sign_flip_of_single_samples():
    assert sign_flip([1] * 9 + [-1] * 3 + [0] * 20).p == mcnemar(9, 3)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="at least 0"):
        mcnemar(-1, 2)


def test_holm_correction_equals_closed_testing():
    """The largest Bonferroni p-value over all families that hold the hypothesis."""
    rng = np.random.default_rng(2)
    for size in (1, 2, 5, 7):
        p_values = (rng.random(size) ** 3).tolist()
        families = [f for r in range(1, size + 1) for f in itertools.combinations(range(size), r)]
        expected = [
            max(min(1.0, len(f) * min(p_values[i] for i in f)) for f in families if j in f) for j in range(size)
        ]
        assert holm(p_values) == pytest.approx(expected, rel=1e-12)
    assert holm([]) == []


def test_the_detectable_difference_is_found_with_its_nominal_power():
    error = 0.03
    shift = detectable(error)
    assert shift == pytest.approx(2.8016 * error, rel=1e-4)
    found = np.abs(np.random.default_rng(4).normal(shift, error, size=100_000)) > scipy.stats.norm.ppf(0.975) * error
    # Four standard deviations.
    assert found.mean() == pytest.approx(0.8, abs=4 * 0.4 / math.sqrt(100_000))


def test_paired_tests_use_the_seed_of_all_intervals():
    assert sign_flip(DIFFERENCES) == sign_flip(DIFFERENCES, seed=intervals.INTERVAL_SEED)
