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

from harness.stats.distributions import t_quantile
from harness.stats.intervals import (
    CHUNK_ELEMENTS,
    DRAWS,
    FEW_OF_DIFFERENCES,
    INTERVAL_SEED,
    LEVEL,
    Floats,
    Interval,
    Units,
    by_cluster,
    effective_number,
    tail_weight,
)

MOST_EXACT = 20
"""Enumerate all 2^m signs (a million sums) up to this number m of differences other than 0."""
POWER = 0.8
NO_DISTANCE = 1e-12
"""Two means that differ by no more are equal but for rounding."""


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


def difference_interval(
    differences: ArrayLike, clusters: Sequence[Hashable] | None = None, level: float = LEVEL
) -> Interval:
    """Return the interval of a mean of paired differences between -1 and 1, over problems or clusters of them.

    See `Units.margin` for the method. Where all differences have one value v, at most a share u of all problems may
    differ from v, where u is the upper end of the Clopper-Pearson interval of 0 in n.
    """
    values: Floats = np.asarray(differences, dtype=np.float64)
    if values.size == 0 or not np.all(np.abs(values) <= 1):
        raise ValueError("an interval of differences needs values between -1 and 1, at least one")
    if values.size == 1:
        return Interval(-1.0, 1.0, "one problem says nothing about others: the whole range")
    units = Units.of(values, clusters)
    weight = tail_weight(effective_number(units.sums), *FEW_OF_DIFFERENCES)
    below = units.margin(-1, units.mean + 1, weight, level)
    above = units.margin(1, 1 - units.mean, weight, level)
    return Interval(max(-1.0, units.mean - below), min(1.0, units.mean + above), units.method)


@dataclass(frozen=True, slots=True)
class SeedError:
    """The standard error of a difference of means that comes from the runs, and its degrees of freedom."""

    error: float
    df: float
    method: str


def seed_error(first: ArrayLike, second: ArrayLike) -> SeedError | None:
    """Return Welch's standard error of the difference of the means over runs; None with one run a side.

    The values are the means of the runs. A side of one run is given the variance of the other.
    """
    one, two = (np.asarray(side, dtype=np.float64) for side in (first, second))
    if max(one.size, two.size) < 2:
        return None
    own = [float(side.var(ddof=1)) if side.size > 1 else None for side in (one, two)]
    known = [variance for variance in own if variance is not None]
    variances = [variance if variance is not None else known[0] for variance in own]
    parts = [variances[0] / one.size, variances[1] / two.size]
    if len(known) == 1:
        return SeedError(math.sqrt(sum(parts)), max(one.size, two.size) - 1, "the variance of the side with runs")
    total, dfs = sum(parts), (one.size - 1, two.size - 1)
    spread = sum(part**2 / df for part, df in zip(parts, dfs, strict=True))
    return SeedError(math.sqrt(total), total**2 / spread if spread > 0 else float(sum(dfs)), "Welch")


def crossed_interval(first: ArrayLike, second: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Interval:
    """Return the 95% interval of the mean of `second` less that of `first`, over runs (seeds) and problems.

    Both are [runs, problems] of values between 0 and 1. The margin over problems is that of `difference_interval` of
    the means over runs. With several runs a side, Welch's t margin over runs is added by the root of the sum of
    squares (Zou and Donner 2008). The noise of the samples is part of both, so without an effect of seeds the interval
    is too wide, never too narrow.
    """
    one, two = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (first, second))
    differences = two.mean(axis=0) - one.mean(axis=0)
    interval, mean = difference_interval(differences, clusters), float(differences.mean())
    seeds = seed_error(one.mean(axis=1), two.mean(axis=1))
    if seeds is None or differences.size == 1:
        return interval
    of_runs = t_quantile(LEVEL, seeds.df) * seeds.error
    low, high = mean - math.hypot(mean - interval.low, of_runs), mean + math.hypot(interval.high - mean, of_runs)
    method = f"{interval.method} and {len(one)} and {len(two)} runs ({seeds.method})"
    return Interval(max(-1.0, low), min(1.0, high), method)


def crossed_test(first: ArrayLike, second: ArrayLike, clusters: Sequence[Hashable] | None = None) -> PValue | None:
    """Return the p-value of no difference over runs and problems; None with one run a side, or a single problem.

    It is the level at which the margins of `crossed_interval`, those of t over problems and over runs, reach 0.
    """
    one, two = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (first, second))
    differences = two.mean(axis=0) - one.mean(axis=0)
    seeds = seed_error(one.mean(axis=1), two.mean(axis=1))
    if seeds is None or differences.size == 1:
        return None
    units = Units.of(differences, clusters)
    distance, n = abs(units.mean), units.sums.size
    low, high = 0.0, 1.0  # of p: the margins fall as it grows
    if distance <= NO_DISTANCE:  # also where nothing varies, and all margins are 0
        low = high
    while high - low > 1e-10:
        p = (low + high) / 2
        margin = math.hypot(t_quantile(1 - p, n - 1) * units.error, t_quantile(1 - p, seeds.df) * seeds.error)
        low, high = (p, high) if margin > distance else (low, p)
    return PValue(high, f"t over problems and {len(one)} and {len(two)} runs ({seeds.method})")


@dataclass(frozen=True, slots=True)
class MeanOfSets:
    """The mean over several sets of problems, each of equal weight, with its margins over problems and over runs."""

    mean: float
    error: float
    """The standard error over problems."""
    df: float
    """Of `error`, by Welch and Satterthwaite."""
    seeds: SeedError | None

    def margin(self, level: float = LEVEL) -> float:
        """Return the half width of the interval: the margins over problems and over runs, added as in
        `crossed_interval`."""
        of_runs = t_quantile(level, self.seeds.df) * self.seeds.error if self.seeds is not None else 0.0
        return math.hypot(t_quantile(level, self.df) * self.error, of_runs)

    def p_value(self) -> float:
        """Return the level at which the margin reaches 0."""
        if abs(self.mean) <= NO_DISTANCE:
            return 1.0
        low, high = 0.0, 1.0  # of p: the margin falls as it grows
        while high - low > 1e-10:
            p = (low + high) / 2
            low, high = (p, high) if self.margin(1 - p) > abs(self.mean) else (low, p)
        return high


def mean_of_sets(
    first: Sequence[Floats] | None, second: Sequence[Floats], clusters: Sequence[Sequence[Hashable] | None]
) -> MeanOfSets:
    """Return the mean over sets of `second` less `first`, or of `second` alone if `first` is None.

    Each set is [runs, problems], with at least two problems. Runs of several sets belong together by their place if
    all sets have equally many; if not, the sets' errors over runs are added as independent ones.
    """
    means = [side.mean(axis=0) for side in second]
    if first is not None:
        means = [theirs - ours.mean(axis=0) for theirs, ours in zip(means, first, strict=True)]
    errors = np.array([standard_error(of_set, families) for of_set, families in zip(means, clusters, strict=True)])
    dfs = (
        np.array(
            [
                len(set(families)) if families is not None else m.size
                for m, families in zip(means, clusters, strict=True)
            ]
        )
        - 1
    )
    total = float((errors**2).sum())
    df = total**2 / float((errors**4 / dfs).sum()) if total > 0 else float(dfs.sum())
    mean = float(np.mean([of_set.mean() for of_set in means]))
    return MeanOfSets(mean, math.sqrt(total) / len(means), df, _seeds_of_sets(first, second))


def _seeds_of_sets(first: Sequence[Floats] | None, second: Sequence[Floats]) -> SeedError | None:
    sides = [side for side in (first, second) if side is not None]
    if all(len({len(of_set) for of_set in side}) == 1 for side in sides):
        by_run = [np.mean([of_set.mean(axis=1) for of_set in side], axis=0) for side in sides]
        return _seed_error_of(*by_run)
    parts = [_seed_error_of(*(of_set.mean(axis=1) for of_set in sets)) for sets in zip(*sides, strict=True)]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    error = math.sqrt(sum(part.error**2 for part in known)) / len(parts)
    return SeedError(error, min(part.df for part in known), known[0].method)


def _seed_error_of(*sides: Floats) -> SeedError | None:
    """Return the error over runs of a difference, or of one mean; None without several runs."""
    if len(sides) == 2:
        return seed_error(*sides)
    (runs,) = sides
    if runs.size < 2:
        return None
    return SeedError(float(runs.std(ddof=1)) / math.sqrt(runs.size), runs.size - 1, "t")


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


def sign_flips(differences: Floats, seed: int = INTERVAL_SEED, draws: int = DRAWS) -> list[float]:
    """Return the p-value of `sign_flip` for each row of [pairs, problems], with the same random signs for all rows.

    A row that `sign_flip` enumerates is enumerated here too. The rows are computed together, which is many times faster
    than one by one; a drawn p differs from that of `sign_flip` by the noise of its draws.
    """
    n_pairs, n_problems = differences.shape
    moving = np.count_nonzero(differences, axis=1)
    drawn = np.flatnonzero(moving > MOST_EXACT)
    values = np.ascontiguousarray(differences[drawn].T, dtype=np.float64)  # (problems, pairs)
    least = np.abs(values.sum(axis=0)) - 1e-12 * np.abs(values).sum(axis=0)
    n_as_far = np.ones(drawn.size, dtype=np.int64)
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, CHUNK_ELEMENTS // max(n_problems, drawn.size, 1))
    for done in range(0, draws if drawn.size else 0, rows_at_once):
        size = (min(rows_at_once, draws - done), n_problems)
        signs = 2.0 * generator.integers(0, 2, size=size, dtype=np.int8) - 1.0
        n_as_far += np.count_nonzero(np.abs(signs @ values) >= least, axis=0)
    found = dict(zip(drawn.tolist(), (n_as_far / (draws + 1)).tolist(), strict=True))
    return [found[row] if row in found else sign_flip(differences[row]).p for row in range(n_pairs)]


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
