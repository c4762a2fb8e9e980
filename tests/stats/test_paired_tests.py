"""Paired statistics against enumeration, the definitions written out, scipy, and simulation."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from harness.stats import intervals, paired_tests
from harness.stats.paired_tests import (
    crossed_interval,
    detectable,
    difference_interval,
    holm,
    mcnemar,
    regrouped,
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


def test_a_difference_has_the_bootstrap_of_its_problems():
    interval = difference_interval(DIFFERENCES, seed=2)
    theirs = scipy.stats.bootstrap(
        (DIFFERENCES,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    # Four times the error of a 2.5% quantile of 10,000 draws, on either side.
    assert (interval.low, interval.high) == pytest.approx(
        (theirs.low, theirs.high), abs=0.15 * scipy.stats.sem(DIFFERENCES)
    )
    assert interval.method == "95% bootstrap over 300 problems, 10000 draws, seed 2"


@pytest.mark.parametrize("value", [-1.0, -0.25, 0.0, 1.0])
def test_equal_differences_have_an_interval_of_some_width(value):
    interval = difference_interval([value] * 30)
    most_others = scipy.stats.binomtest(0, 30).proportion_ci(0.95, method="wilson").high
    # That share of problems lies at the one end or at the other.
    assert interval.low == pytest.approx((1 - most_others) * value - most_others)
    assert interval.high == pytest.approx((1 - most_others) * value + most_others)
    assert "all of one difference" in interval.method


def test_one_difference_is_the_whole_range():
    assert (difference_interval([0.5]).low, difference_interval([0.5]).high) == (-1.0, 1.0)


@pytest.mark.parametrize("values", [[], [1.5], [math.nan, 0.0]])
def test_differences_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="between -1 and 1"):
        difference_interval(values)


# --- runs as a level --------------------------------------------------------------------------------------------


def crossed_draws(first, second, n_draws):
    """Runs of either side drawn apart, problems together, one draw after another."""
    rng, means = np.random.default_rng(9), []
    for _ in range(n_draws):
        problems = rng.integers(first.shape[1], size=first.shape[1])
        one, two = (side[rng.integers(len(side), size=len(side))][:, problems] for side in (first, second))
        means.append(two.mean() - one.mean())
    return np.array(means)


def test_crossed_interval_draws_runs_and_problems_independently():
    rng = np.random.default_rng(4)
    skill = rng.random(25)
    first, second = (np.clip(skill + rng.normal(0, 0.2, (n, 25)) + rng.normal(0, 0.1, (n, 1)), 0, 1) for n in (3, 4))
    found, plain = crossed_interval(first, second, seed=2), crossed_draws(first, second, 10_000)
    # 0.15 standard errors, as for the bootstrap over problems alone.
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.15 * plain.std())
    assert found.method == "95% bootstrap over 3 and 4 runs and 25 problems, 10000 draws, seed 2"
    turned = crossed_interval(second, first, seed=2)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=0.15 * plain.std())


def test_differing_runs_widen_the_crossed_interval():
    rates = np.random.default_rng(4).random(200)
    alike = crossed_interval([rates, rates], [rates / 2, rates / 2])
    other = crossed_interval([rates, rates], [rates / 4, rates * 3 / 4])
    single = difference_interval((rates / 2 - rates).tolist())
    assert (alike.low, alike.high) == pytest.approx((single.low, single.high), abs=0.005)
    assert other.high - other.low > 3 * (alike.high - alike.low)


def test_one_run_per_side_has_the_paired_bootstrap():
    first, second = np.zeros(300), np.abs(DIFFERENCES)
    assert crossed_interval(first, second) == difference_interval(second.tolist())
    assert crossed_interval([[0.5] * 30] * 2, [[0.75] * 30] * 3) == difference_interval([0.25] * 30)
    assert crossed_interval([[0.5], [0.25]], [[1.0]]).low == -1.0


def test_clusters_are_drawn_whole():
    rng = np.random.default_rng(12)
    sizes = rng.integers(1, 5, size=30)
    clusters = np.repeat(np.arange(30), sizes).tolist()
    values = np.repeat(rng.random(30), sizes)
    found = crossed_interval(np.zeros(values.size), values, clusters)
    plain = []
    for _ in range(10_000):
        chosen = rng.integers(30, size=30)
        plain.append(np.concatenate([values[np.equal(clusters, cluster)] for cluster in chosen]).mean())
    spread = np.std(plain)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.15 * spread)
    assert "over 30 clusters of" in found.method
    # Problems of one cluster are alike here, so that they are worth little more than one.
    single = difference_interval(values.tolist())
    assert found.high - found.low > 1.3 * (single.high - single.low)
    assert standard_error(values, clusters) == pytest.approx(spread, rel=0.1)
    both = crossed_interval(np.zeros((2, values.size)), [values, values], clusters)
    assert (both.low, both.high) == pytest.approx((found.low, found.high), abs=0.15 * spread)
    assert both.method.startswith("95% bootstrap over 2 and 2 runs and 30 clusters of")


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
