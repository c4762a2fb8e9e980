"""Sequential evaluation: coverage at every look, samples saved, and the same decision as with all samples."""

import math

import numpy as np
import pytest

from harness.stats.intervals import mean_interval
from harness.stats.sequential import fewest_samples, least_margin, margin, next_look, sampling_error

RATES = ((0.6, 0.9), (0.2, 1), (0.15, 1.35), (3, 1.5), (8, 2), (4, 4))
MOST = 64
UNTIL = 0.02


def followed(rng, rates, until, most):
    """Follow one run to its stop.

    Return the samples used, the estimate, its margin, whether all looks covered, the estimate of all samples, and the
    interval over problems at the stop.
    """
    n_problems, right, n, always = len(rates), np.zeros(len(rates), int), 4, True
    outcomes = rng.random((most, n_problems)) < rates
    while True:
        right = outcomes[:n].sum(axis=0)
        reached = margin(right.tolist(), [n] * n_problems, until)
        always &= abs(right.mean() / n - rates.mean()) <= reached
        if reached <= until or n >= most:
            over_problems = mean_interval((right / n).tolist())
            return n, right.mean() / n, reached, always, outcomes.mean(), over_problems
        n = next_look(n, reached, until, most)


def test_sequential_intervals_cover_at_every_look_and_save_samples():
    rng = np.random.default_rng(0)
    runs = [followed(rng, rng.beta(*RATES[i % 6], size=m), UNTIL, MOST) for m in (30, 100, 500) for i in range(90)]
    assert np.mean([always for *_, always, _, _ in runs]) >= 0.93
    assert np.median([n for n, *_ in runs]) <= 0.6 * MOST
    # The decision: the estimate is known to the precision that was asked for.
    agree = [abs(estimate - of_all) <= UNTIL for _, estimate, _, _, of_all, _ in runs]
    assert np.mean(agree) >= 0.95
    assert all(reached <= UNTIL or n == MOST for n, _, reached, *_ in runs)
    truths = [a / (a + b) for _ in (30, 100, 500) for a, b in (RATES[i % 6] for i in range(90))]
    covered = [i.low <= truth <= i.high for (*_, i), truth in zip(runs, truths, strict=True)]
    assert np.mean(covered) >= 0.93


def test_looking_after_every_round_keeps_the_coverage():
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(200):
        rates = rng.beta(0.6, 0.9, size=30)
        right = np.cumsum(rng.random((40, 30)) < rates, axis=0)
        misses += any(
            abs(right[t].mean() / (t + 1) - rates.mean()) > margin(right[t].tolist(), [t + 1] * 30, 0.05)
            for t in range(1, 40)
        )
    assert misses <= 200 * 0.07


def test_plain_intervals_looked_at_after_every_round_would_not_cover():
    """The reason for a confidence sequence: 1.96 standard errors at every look miss far more often than 5%."""
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(200):
        rates = rng.beta(0.6, 0.9, size=30)
        right = np.cumsum(rng.random((40, 30)) < rates, axis=0)
        misses += any(
            abs(right[t].mean() / (t + 1) - rates.mean()) > 1.96 * sampling_error(right[t].tolist(), [t + 1] * 30)
            for t in range(1, 40)
        )
    assert misses >= 200 * 0.15


def test_the_margin_is_the_boundary_of_the_paper():
    right, n = [3, 0, 8, 5], 8
    variances = [(c + 0.5) * (n - c + 0.5) / (n * (n + 1)) for c in right]
    sigma = math.sqrt(sum(variances)) / 4  # of the mean of one round
    tuned = 9.2 * 0.15 / (4 * 0.1**2)
    rho2 = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05)) + 1) / tuned
    bound = sigma * math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / 0.05))
    assert margin(right, [n] * 4, 0.1) == pytest.approx(bound, rel=1e-12)


def test_no_outcome_has_a_smaller_margin_than_all_right():
    least = least_margin(5, 3, 0.1)
    rng = np.random.default_rng(2)
    assert all(margin(rng.integers(0, 4, size=5).tolist(), [3] * 5, 0.1) >= least - 1e-15 for _ in range(200))
    assert margin([0] * 5, [3] * 5, 0.1) == pytest.approx(least)


def test_the_fewest_samples_are_the_first_that_can_suffice():
    for n_problems in (1, 30, 500):
        for until in (0.005, 0.02, 0.1):
            n = fewest_samples(n_problems, until)
            assert least_margin(n_problems, n, until) <= until
            assert n == 1 or least_margin(n_problems, n - 1, until) > until


def test_the_next_look_goes_forward_and_at_most_doubles():
    assert next_look(4, 0.1, 0.02, 64) == 8
    assert next_look(40, 0.021, 0.02, 64) == 45
    assert next_look(40, 0.0200001, 0.02, 64) == 41
    assert next_look(60, 0.1, 0.02, 64) == 64


@pytest.mark.parametrize(("right", "n"), [([], []), ([1], [0]), ([3], [2])])
def test_impossible_counts_are_refused(right, n):
    with pytest.raises(ValueError, match="0 <= right <= n"):
        margin(right, n, 0.1)
