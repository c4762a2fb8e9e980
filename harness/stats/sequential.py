"""A confidence sequence for the mean rate of given problems: its intervals hold at every look, so one may stop early.

Only the samples are random here. A round draws one sample of each problem; the mean over problems of a round is one
observation, and rounds are independent with one mean. The asymptotic confidence sequence for such means (Waudby-Smith,
Arbour, Sinha, Kennedy and Ramdas, 2021, Theorem 2.2) holds for all numbers of rounds together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.95
TYPICAL_VARIANCE = 0.15
"""Mean of p (1 - p) that the sequence is tuned for. Coverage does not depend on it."""
BEST_FACTOR = 9.2
"""Square of the factor of the standard error at the number of rounds that the sequence is tuned for."""


def sampling_error(right: Sequence[int], n_samples: Sequence[int]) -> float:
    """Return the standard error of the mean over problems of right / n, given the problems.

    The variance of a sample is (c + 1/2) (n - c + 1/2) / (n (n + 1)), so that a few equal samples do not count as
    certain.
    """
    variances = ((c + 0.5) * (n - c + 0.5) / (n * (n + 1)) / n for c, n in zip(right, n_samples, strict=True))
    return math.sqrt(math.fsum(variances)) / len(n_samples)


def margin(right: Sequence[int], n_samples: Sequence[int], until: float) -> float:
    """Return half the width of the interval after these samples, of a sequence tuned to reach `until` soonest."""
    if not n_samples or min(n_samples) < 1 or not all(0 <= c <= n for c, n in zip(right, n_samples, strict=True)):
        raise ValueError("a confidence sequence needs 0 <= right <= n and n >= 1 for each problem")
    tuned_for = max(1.0, BEST_FACTOR * TYPICAL_VARIANCE / (len(n_samples) * until**2))
    alpha = 1 - LEVEL
    # rho^2 that makes the interval narrowest after `tuned_for` rounds, to first order (the paper's section 3.5).
    rho_squared = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / tuned_for
    x = min(n_samples) * rho_squared
    factor = math.sqrt(2 * (x + 1) / x * math.log(math.sqrt(x + 1) / alpha))
    return factor * sampling_error(right, n_samples)


def least_margin(n_problems: int, n: int, until: float) -> float:
    """Return the margin if all samples are right: no outcome of n samples of each problem gives a smaller one."""
    return margin([n] * n_problems, [n] * n_problems, until)


def fewest_samples(n_problems: int, until: float) -> int:
    """Return the smallest number of samples of each problem that may reach a margin of `until`."""
    low, high = 0, 1
    while least_margin(n_problems, high, until) > until:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if least_margin(n_problems, middle, until) > until else (low, middle)
    return high


def next_look(n: int, reached: float, until: float, most: int) -> int:
    """Return the number of samples at which to look next: where the margin is expected to suffice, at most twice n."""
    expected = math.ceil(n * (reached / until) ** 2)
    return min(most, max(n + 1, min(expected, 2 * n)))
