"""Estimators and confidence intervals. Problems are the clusters: samples of a problem are not independent.

This module imports numpy, so import it inside the function that uses it: the command line must start quickly.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.distributions import t_quantile

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

INTERVAL_SEED = 0
"""The seed of every interval. It is not a setting, so that the same verdicts give the same interval."""
LEVEL = 0.95
DRAWS = 10_000
FEWEST_CLUSTERS = 20
"""With fewer clusters their interval would be too narrow, and problems are resampled one by one."""
FEW_OF_MEANS = (8.0, 24.0)
"""Unseen problems count fully up to the first effective number of problems away from the end, and not at all from the
second. Chosen on the grid of tools/coverage_of_intervals.py, as MOST_SKEW and FEW_OF_DIFFERENCES are."""
FEW_OF_DIFFERENCES = (2.0, 5.0)
"""The same for differences, by the effective number of problems that differ."""
MOST_SKEW = 0.3
"""Most skewness of the mean that is corrected for."""
CHUNK_ELEMENTS = 2**20
"""Resampled values in memory at a time: 4 MB of indices and 8 MB of values."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Two ends, never nan, and the name of the method."""

    low: float
    high: float
    method: str


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Return the probability that k of n samples, drawn without replacement, include one of the c right ones.

    1 - C(n-c, k) / C(n, k) (Chen et al. 2021, section 2.1), unbiased, elementwise for arrays. Computed as a product
    over the draws, nothing overflows, and 0 right or fewer than k wrong samples give exactly 0 or 1.
    """
    n_samples, n_right = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    if k < 1 or np.any(n_samples < k) or np.any(n_right < 0) or np.any(n_right > n_samples):
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n, not k={k}, n={n_samples}, c={n_right}")
    all_wrong = np.ones(n_samples.shape)
    for drawn in range(k):
        # A factor is 0 once every wrong sample is drawn, so the product stays 0.
        all_wrong *= (n_samples - n_right - drawn) / (n_samples - drawn)
    return 1.0 - all_wrong


def pass_hat_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Return the probability that all of k samples drawn without replacement are right: C(c, k) / C(n, k)."""
    n_samples = np.asarray(n, dtype=np.float64)
    # All are right when none is wrong.
    found: Floats = 1.0 - pass_at_k(n_samples, n_samples - np.asarray(c, dtype=np.float64), k)
    return found


def g_pass_at_k(n: int, c: int, k: int, n_needed: int) -> float:
    """Return the probability that at least `n_needed` of k samples drawn without replacement are right."""
    if not (1 <= k <= n and 0 <= c <= n and 1 <= n_needed <= k):
        raise ValueError(f"G-Pass@k needs 1 <= needed <= k <= n and 0 <= c <= n, not {n_needed}, k={k}, n={n}, c={c}")
    ways = sum(math.comb(c, j) * math.comb(n - c, k - j) for j in range(n_needed, min(c, k) + 1))
    # Integers, divided once: exact for any size.
    return ways / math.comb(n, k)


def bootstrap_interval(
    per_problem_values: Sequence[float], seed: int, level: float = LEVEL, draws: int = DRAWS
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over problems. The order of the values has no effect."""
    values = np.sort(np.asarray(per_problem_values, dtype=np.float64))
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError("a bootstrap needs at least one value, and only finite ones")
    generator = np.random.default_rng(seed)
    kinds, sizes = np.unique(values, return_counts=True)
    # Draw equal values together where that is faster: their counts are multinomial.
    are_few = kinds.size * 8 <= values.size
    rows_at_once = max(1, CHUNK_ELEMENTS // (kinds if are_few else values).size)
    means = [
        generator.multinomial(values.size, sizes / values.size, size=rows) @ kinds / values.size
        if are_few
        else _resampled_means(values, generator, rows)
        for rows in (min(rows_at_once, draws - done) for done in range(0, draws, rows_at_once))
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def hierarchical_means(right: ArrayLike, n_samples: ArrayLike, seed: int, draws: int = DRAWS) -> Floats:
    """Return the mean rate of right samples in each draw of a bootstrap over seeds, problems and samples.

    Both arrays are [problems], or [seeds, problems] where the same problems were run under several seeds. Seeds and
    problems are drawn independently, since every seed has every problem. As many samples of a problem are drawn as it
    has; the number of right ones is binomial, so samples are not drawn one by one, and cells (a problem under a seed)
    with equal counts are drawn together.
    """
    n_right, n_all = np.broadcast_arrays(np.atleast_2d(right).astype(np.int64), np.asarray(n_samples, dtype=np.int64))
    if n_right.size == 0 or np.any(n_all < 1) or np.any(n_right < 0) or np.any(n_right > n_all):
        raise ValueError("a bootstrap of samples needs 0 <= right <= n and n >= 1 for each problem and seed")
    n_seeds, n_problems = n_right.shape
    columns, sizes = np.unique(np.concatenate([n_right, n_all]), axis=1, return_counts=True)
    cells = columns.reshape(2, n_seeds * sizes.size)
    (kind_right, kind_n), kind_of = np.unique(cells, axis=1, return_inverse=True)
    groups = [_grouped(kinds) for kinds in kind_of.reshape(n_seeds, sizes.size)]
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    rows_at_once = max(1, CHUNK_ELEMENTS // max(sizes.size, kind_n.size))
    for done in range(0, draws, rows_at_once):
        rows = min(rows_at_once, draws - done)
        times_seed = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=rows)
        times_column = generator.multinomial(n_problems, sizes / n_problems, size=rows)
        times_kind = np.zeros((rows, kind_n.size), dtype=np.int64)
        for times, (order, starts, kinds) in zip(times_seed.T, groups, strict=True):
            times_kind[:, kinds] += times[:, None] * np.add.reduceat(times_column[:, order], starts, axis=1)
        drawn_rates = generator.binomial(times_kind * kind_n, kind_right / kind_n) / kind_n
        means[done : done + rows] = drawn_rates.sum(axis=1) / (n_seeds * n_problems)
    return means


def _grouped(labels: Indices) -> tuple[Indices, Indices, Indices]:
    """Return an order that groups equal labels, the start of each group, and the distinct labels."""
    order = np.argsort(labels, kind="stable")
    kinds, starts = np.unique(labels[order], return_index=True)
    return order, starts, kinds


def hierarchical_interval(
    right: ArrayLike, n_samples: ArrayLike, seed: int = INTERVAL_SEED, level: float = LEVEL, draws: int = DRAWS
) -> tuple[float, float]:
    """Return the percentile interval of `hierarchical_means`.

    It is wider than `bootstrap_interval`: the spread of the problems' rates already contains the noise of the samples,
    and drawing samples adds it a second time.
    """
    low, high = np.quantile(hierarchical_means(right, n_samples, seed, draws), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    seed: int = INTERVAL_SEED,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval over problems of a ratio of sums.

    A draw whose denominators are all 0 counts as infinite, so the upper end is infinite where more than
    (1 - level) / 2 of the draws are.
    """
    pairs = np.stack([np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)], axis=1)
    pairs = pairs[np.lexsort(pairs.T[::-1])]  # so that the order has no effect
    if pairs.size == 0 or not np.all(np.isfinite(pairs)) or np.any(pairs < 0) or not np.any(pairs[:, 1]):
        raise ValueError("a ratio needs finite values of at least 0, and a denominator above 0")
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, CHUNK_ELEMENTS // len(pairs))
    sums = [
        pairs[generator.integers(0, len(pairs), size=(min(rows_at_once, draws - done), len(pairs)))].sum(axis=1)
        for done in range(0, draws, rows_at_once)
    ]
    tops, bottoms = np.concatenate(sums).T
    ratios = np.full(draws, np.inf)
    np.divide(tops, bottoms, out=ratios, where=bottoms > 0)
    # No interpolation between draws, since some may be infinite.
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def _resampled_means(values: Floats, generator: np.random.Generator, rows: int) -> Floats:
    chosen = generator.integers(0, values.size, size=(rows, values.size), dtype=np.int32)
    means: Floats = values.take(chosen).mean(axis=1)
    return means


def usable(clusters: Sequence[Hashable]) -> Sequence[Hashable] | None:
    """Return the clusters if there are enough of them and fewer than problems, else None."""
    return clusters if FEWEST_CLUSTERS <= len(set(clusters)) < len(clusters) else None


def mean_interval(
    per_problem_values: Sequence[float],
    upper: float = 1.0,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Return the 95% interval of a mean over problems, of a quantity between 0 and `upper`.

    Problems are the units, or whole clusters where each problem has one and they are `usable`. See `Units.margin`
    for the method. A single problem says nothing about the others: the interval is the whole range.
    """
    values: Floats = np.asarray(per_problem_values, dtype=np.float64)
    if values.size == 0 or not (np.min(values) >= 0 and np.max(values) <= upper):
        raise ValueError(f"an interval needs values between 0 and {upper}, at least one")
    if values.size == 1:
        return Interval(0.0, upper, "one problem says nothing about others: the whole range")
    units = Units.of(values, clusters)
    # No problem is expected to have more than twice the most solutions or tokens seen. A rate can always be 1.
    farthest = upper if units.are_equal else min(upper, max(1.0, 2 * float(values.max())))
    below, above = (
        units.margin(side, distance, tail_weight(effective_number(rest), *FEW_OF_MEANS))
        for side, distance, rest in (
            (-1, units.mean, farthest * units.sizes - units.sums),
            (1, farthest - units.mean, units.sums),
        )
    )
    return Interval(max(0.0, units.mean - below), min(upper, units.mean + above), units.method)


def interval_over_runs(values: ArrayLike, upper: float = 1.0, clusters: Sequence[Hashable] | None = None) -> Interval:
    """Return the 95% interval of a mean over runs (seeds) and problems, of [runs, problems] between 0 and `upper`.

    The margins over problems are those of `mean_interval` of the means over runs. With several runs, the t margin over
    runs is added by the root of the sum of squares, as in `crossed_interval` of a difference.
    """
    rows: Floats = np.atleast_2d(np.asarray(values, dtype=np.float64))
    means = rows.mean(axis=0)
    interval, mean, n_runs = mean_interval(means.tolist(), upper, clusters), float(means.mean()), len(rows)
    if n_runs == 1 or means.size == 1:
        return interval
    of_runs = t_quantile(LEVEL, n_runs - 1) * float(rows.mean(axis=1).std(ddof=1)) / math.sqrt(n_runs)
    low, high = mean - math.hypot(mean - interval.low, of_runs), mean + math.hypot(interval.high - mean, of_runs)
    return Interval(max(0.0, low), min(upper, high), f"{interval.method} and {n_runs} runs")


@dataclass(frozen=True, slots=True)
class Units:
    """The independent units that a mean is over: problems, or clusters of them."""

    sums: Floats
    """Of each unit, in units of the mean size."""
    sizes: Floats
    """1 on average."""
    mean: float
    deviations: Floats
    """sums - mean x sizes."""
    over: str
    are_equal: bool

    @classmethod
    def of(cls, values: Floats, clusters: Sequence[Hashable] | None) -> Units:
        kept = usable(clusters) if clusters is not None else None
        # Sorted, so that the order of the problems changes no bit.
        sums, sizes, over = np.sort(values), np.ones(values.size), f"{values.size} problems"
        if kept is not None:
            (sums,), sizes = by_cluster(values, kept)
            sums, sizes = sums / sizes.mean(), sizes / sizes.mean()
            over = f"{sizes.size} clusters of {over}"
        mean = float(sums.sum() / sizes.sum())
        deviations = sums - mean * sizes
        are_equal = bool(np.abs(deviations).max() <= 1e-9 * max(1.0, abs(mean)))
        return cls(sums, sizes, mean, deviations, over, are_equal)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        squares = 0.0 if self.are_equal else float(self.deviations @ self.deviations)
        return math.sqrt(squares / max(1, self.sums.size - 1) / self.sums.size)

    def margin(self, side: int, distance: float, weight: float, level: float = LEVEL) -> float:
        """Return how far the interval reaches below (-1) or above (1) the mean, where the end of the range is.

        Three parts: the half width t s / sqrt(m) of the t interval; Johnson's correction for skewness (1978) where it
        widens; and the change of the mean if the largest share of unseen units that is compatible with m units seen
        (Clopper-Pearson of 0 in m) lay at the end of the range, times `weight`. The last is added as independent of
        the others, by the root of the sum of squares (Zou and Donner 2008). With equal values only the last is left.
        """
        n, error = self.sums.size, self.error
        unseen = 1.0 - float(((1 - level) / 2) ** (1 / n))
        if error == 0:
            return unseen * distance
        t = t_quantile(level, n - 1)
        squares = self.deviations**2
        skewness = float(squares @ self.deviations) / float(squares.sum()) ** 1.5
        skewed = max(0.0, side * min(MOST_SKEW, max(-MOST_SKEW, skewness))) * (1 + 2 * t * t) / 6
        return math.hypot((t + skewed) * error, weight * unseen * distance)

    @property
    def method(self) -> str:
        kind = "Clopper-Pearson" if self.are_equal else "t, skewness and unseen problems"
        return f"{LEVEL:.0%} {kind} over {self.over}{', all of one value' if self.are_equal else ''}"


def effective_number(parts: Floats) -> float:
    """Return the number of equal parts that are as concentrated as these: (sum of |x|)^2 / sum of x^2."""
    squares = float(parts @ parts)
    return float(np.abs(parts).sum()) ** 2 / squares if squares > 0 else 0.0


def tail_weight(number: float, few: float, many: float) -> float:
    """Return 1 up to `few`, 0 from `many`, linear between them."""
    return min(1.0, max(0.0, (many - number) / (many - few)))


def by_cluster(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Return the sums over each cluster of [problems] or [runs, problems], as [runs, clusters], and their sizes."""
    places = {label: place for place, label in enumerate(dict.fromkeys(clusters))}
    place_of = [places[label] for label in clusters]
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    sums = np.array([np.bincount(place_of, weights=row) for row in rows])
    return sums, np.bincount(place_of).astype(np.float64)


def rate_interval(right: Sequence[int], n_samples: Sequence[int], seed: int = INTERVAL_SEED) -> Interval:
    """Return the 95% interval of the mean rate of right samples, by a bootstrap over problems and samples.

    Where all problems have the same rate it is that of `mean_interval`.
    """
    rates = [c / n for c, n in zip(right, n_samples, strict=True)]
    if len(rates) == 1 or max(rates) - min(rates) <= 1e-9:
        return mean_interval(rates)
    low, high = hierarchical_interval(right, n_samples, seed)
    how = f"{LEVEL:.0%} bootstrap over {len(rates)} problems and the samples of each, {DRAWS} draws, seed {seed}"
    return Interval(low, high, how)
