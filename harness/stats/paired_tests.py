"""Compare runs on the same problems: intervals and tests of paired differences, and the detectable difference.

This module imports numpy, so import it inside the function that uses it: the command line must start quickly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.intervals import (
    CHUNK_ELEMENTS,
    DRAWS,
    INTERVAL_SEED,
    LEVEL,
    Floats,
    Interval,
    bootstrap_interval,
    by_cluster,
)

MOST_EXACT = 20
"""Enumerate all 2^m signs (a million sums) up to this number m of differences other than 0."""
POWER = 0.8


@dataclass(frozen=True, slots=True)
class PValue:
    """A two-sided p-value, and the name of the method."""

    p: float
    method: str


def standard_error(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float:
    """Return the standard error of the mean of n values in C clusters.

    It is sqrt(sum over clusters of (sum of deviations)^2 * C / (C - 1)) / n and needs at least two clusters. Without
    `clusters` each value is a cluster, and this is the sample standard deviation over sqrt(n).
    """
    numbers = np.asarray(values, dtype=np.float64)
    labels: Sequence[Hashable] = clusters if clusters is not None else range(numbers.size)
    n_clusters = len(set(labels))
    if n_clusters < 2 or len(labels) != numbers.size:
        raise ValueError(f"a standard error needs a cluster for each value, and two clusters; there are {n_clusters}")
    (sums,), _ = by_cluster(numbers - numbers.mean(), labels)
    return math.sqrt(float(sums @ sums) * n_clusters / (n_clusters - 1)) / numbers.size


def difference_interval(differences: Sequence[float], seed: int = INTERVAL_SEED) -> Interval:
    """Return the 95% interval of a mean of paired differences between -1 and 1, by a bootstrap over problems.

    Where all differences have one value v a bootstrap would claim certainty. There at most a share u of all problems
    may differ from v, where u is the upper end of Wilson's interval of 0 in n. These lie between -1 and 1, which bounds
    the mean.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0 or not np.all(np.abs(values) <= 1):
        raise ValueError("an interval of differences needs values between -1 and 1, at least one")
    if values.size == 1:
        return Interval(-1.0, 1.0, "one problem says nothing about others: the whole range")
    if np.ptp(values) <= 1e-9:
        z2 = NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
        same, other = float(values[0]), z2 / (values.size + z2)
        low, high = same - other * (same + 1), same + other * (1 - same)
        return Interval(low, high, f"{LEVEL:.0%} Wilson over {values.size} problems, all of one difference")
    low, high = bootstrap_interval(differences, seed)
    return Interval(low, high, f"{LEVEL:.0%} bootstrap over {values.size} problems, {DRAWS} draws, seed {seed}")


def crossed_interval(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    seed: int = INTERVAL_SEED,
    draws: int = DRAWS,
) -> Interval:
    """Return the 95% interval of the mean of `second` less that of `first`, by a bootstrap over runs and problems.

    Both are [runs, problems] of values between 0 and 1. A draw takes the same problems (or whole clusters of them) in
    all runs, and draws the runs of each side independently. With one run per side and no clusters this is
    `difference_interval`.
    """
    one, two = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (first, second))
    differences = two.mean(axis=0) - one.mean(axis=0)
    are_equal = max(np.ptp(one, axis=0).max(initial=0), np.ptp(two, axis=0).max(initial=0)) <= 1e-9
    is_plain = len(one) == len(two) == 1 and clusters is None
    if is_plain or differences.size < 2 or (are_equal and np.ptp(differences) <= 1e-9):
        return difference_interval(differences.tolist(), seed)
    ours, sizes = by_cluster(one, clusters if clusters is not None else range(differences.size))
    theirs, _ = by_cluster(two, clusters if clusters is not None else range(differences.size))
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, CHUNK_ELEMENTS // sizes.size)
    means = []
    for done in range(0, draws, rows_at_once):
        rows = min(rows_at_once, draws - done)
        drawn = _runs_drawn(theirs, generator, rows) - _runs_drawn(ours, generator, rows)
        times = generator.multinomial(sizes.size, np.full(sizes.size, 1 / sizes.size), size=rows)
        means.append((drawn * times).sum(axis=1) / (times @ sizes))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    over = [f"{len(one)} and {len(two)} runs"] if len(one) + len(two) > 2 else []
    over += [
        f"{sizes.size} clusters of {differences.size} problems" if clusters is not None else f"{sizes.size} problems"
    ]
    return Interval(
        float(low), float(high), f"{LEVEL:.0%} bootstrap over {' and '.join(over)}, {draws} draws, seed {seed}"
    )


def _runs_drawn(side: Floats, generator: np.random.Generator, rows: int) -> Floats:
    """Return for each draw the mean over runs drawn with replacement: [rows, problems]."""
    times = generator.multinomial(len(side), np.full(len(side), 1 / len(side)), size=rows)
    means: Floats = times @ side / len(side)
    return means


def regrouped(first: ArrayLike, second: ArrayLike, seed: int = INTERVAL_SEED, draws: int = DRAWS) -> PValue:
    """Return the p-value of a permutation test: how often regrouped runs have means at least as far apart.

    It is over all groupings when there are at most MOST_EXACT runs, else over `draws` seeded ones and that of the data.
    """
    one, two = (np.sort(np.asarray(side, dtype=np.float64)) for side in (first, second))
    if min(one.size, two.size) < 1 or not np.all(np.isfinite(runs := np.concatenate([one, two]))):
        raise ValueError("each group of runs needs at least one value, and only finite ones")
    # The other group has the rest of the total, so the sum of one group determines the distance of the means.
    middle = one.size * runs.mean()
    least = abs(one.sum() - middle) - 1e-12 * np.abs(runs).sum()
    if runs.size <= MOST_EXACT:
        sums = np.array([sum(chosen) for chosen in itertools.combinations(runs.tolist(), one.size)])
        return PValue(float(np.mean(np.abs(sums - middle) >= least)), f"all {sums.size} groupings of the runs")
    generator = np.random.default_rng(seed)
    dealt = generator.permuted(np.tile(runs, (draws, 1)), axis=1)[:, : one.size].sum(axis=1)
    n_as_far = 1 + int(np.count_nonzero(np.abs(dealt - middle) >= least))
    return PValue(n_as_far / (draws + 1), f"{draws} groupings of the runs, seed {seed}")


def sign_flip(differences: ArrayLike, seed: int = INTERVAL_SEED, draws: int = DRAWS) -> PValue:
    """Return the p-value of a sign-flip test: how often random signs put the mean at least as far from 0.

    It is over all signs when at most MOST_EXACT differences are not 0 (flipping a 0 has no effect). Else it is over
    `draws` seeded ones and that of the data, so p is never 0.
    """
    values = np.sort(np.asarray(differences, dtype=np.float64))
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError("a sign-flip test needs at least one difference, and only finite ones")
    moving = values[values != 0]
    # Sums of the same numbers in another order may differ by rounding.
    least = abs(math.fsum(moving)) - 1e-12 * math.fsum(np.abs(moving))
    if moving.size <= MOST_EXACT:
        sums = np.zeros(1)
        for value in moving:
            sums = np.concatenate([sums + value, sums - value])
        return PValue(float(np.mean(np.abs(sums) >= least)), f"all {sums.size} signs")
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, CHUNK_ELEMENTS // moving.size)
    n_as_far = 1
    for done in range(0, draws, rows_at_once):
        size = (min(rows_at_once, draws - done), moving.size)
        signs = generator.integers(0, 2, size=size, dtype=np.int8)
        n_as_far += int(np.count_nonzero(np.abs(2 * (signs @ moving) - moving.sum()) >= least))
    return PValue(n_as_far / (draws + 1), f"{draws} draws of signs, seed {seed}")


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test, from the counts of problems that only one run has right."""
    n = only_first + only_second
    if min(only_first, only_second) < 0:
        raise ValueError("McNemar's test needs counts of at least 0")
    tail = sum(math.comb(n, j) for j in range(min(only_first, only_second) + 1))
    # Divided as integers, since 2**n may exceed the largest float.
    return float(min(1.0, 2 * tail / (1 << n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's method, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def detectable(error: float, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest true difference that a two-sided test at 1 - `level` finds with this power.

    It is error * (z of (1 + level) / 2 + z of power), where `error` is the standard error of the difference.
    """
    normal = NormalDist()
    return error * (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power))
