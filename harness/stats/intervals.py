"""Estimators and intervals. Problems are the clusters: samples of one problem are never treated as independent.

Only numpy at the top, so import this module where it is used, not where a command line starts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

INTERVAL_SEED = 0
"""The seed of every interval in this project. It is no setting: the same verdicts give the same interval."""
LEVEL = 0.95
DRAWS = 10_000
FEWEST_CLUSTERS = 20
"""With fewer an interval over clusters is too narrow; then problems count one by one."""
CHUNK_ELEMENTS = 2**20
"""Resampled values held at once: 4 MB of indices and 8 MB of values."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Two ends, never nan, and in words how they were found."""

    low: float
    high: float
    method: str


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """The chance that k of n samples, drawn without replacement, hold one of the c right ones.

    1 - C(n-c, k) / C(n, k) (Chen et al. 2021, section 2.1), unbiased, for arrays of n and c alike in shape. As a
    product over the draws nothing overflows, and 0 right or fewer than k wrong give exactly 0 or 1.
    """
    n_samples, n_right = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    if k < 1 or np.any(n_samples < k) or np.any(n_right < 0) or np.any(n_right > n_samples):
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n, not k={k}, n={n_samples}, c={n_right}")
    all_wrong = np.ones(n_samples.shape)
    for drawn in range(k):
        # Once every wrong sample is drawn a factor is 0, so the product stays 0.
        all_wrong *= (n_samples - n_right - drawn) / (n_samples - drawn)
    return 1.0 - all_wrong


def pass_hat_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """The chance that all of k samples drawn without replacement are right: C(c, k) / C(n, k)."""
    n_samples = np.asarray(n, dtype=np.float64)
    # All right is none wrong.
    found: Floats = 1.0 - pass_at_k(n_samples, n_samples - np.asarray(c, dtype=np.float64), k)
    return found


def g_pass_at_k(n: int, c: int, k: int, n_needed: int) -> float:
    """The chance that at least `n_needed` of k samples drawn without replacement are right (hypergeometric)."""
    if not (1 <= k <= n and 0 <= c <= n and 1 <= n_needed <= k):
        raise ValueError(f"G-Pass@k needs 1 <= needed <= k <= n and 0 <= c <= n, not {n_needed}, k={k}, n={n}, c={c}")
    ways = sum(math.comb(c, j) * math.comb(n - c, k - j) for j in range(n_needed, min(c, k) + 1))
    # Whole numbers, divided once: exact for any size.
    return ways / math.comb(n, k)


def bootstrap_interval(
    per_problem_values: Sequence[float], seed: int, level: float = LEVEL, draws: int = DRAWS
) -> tuple[float, float]:
    """Percentile bootstrap of the mean over problems, the same for any order of the values."""
    values = np.sort(np.asarray(per_problem_values, dtype=np.float64))
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError("a bootstrap needs at least one value, and finite ones")
    generator = np.random.default_rng(seed)
    kinds, sizes = np.unique(values, return_counts=True)
    # Equal values are drawn together where that is quicker: how often each kind comes is multinomial.
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
    """The mean rate of right samples in each draw of a bootstrap at every level: seeds, then problems, then samples.

    Both arrays are [problems], or [seeds, problems] where the same problems were asked under several seeds: then seeds
    and problems are drawn apart from each other, for every seed has every problem. Of a problem's samples as many are
    drawn as it has; the right ones among them are a binomial number, so no sample is drawn one by one, and cells
    (a problem under a seed) with the same counts are drawn together.
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
    """An order in which equal labels stand together, where each of them begins, and the labels."""
    order = np.argsort(labels, kind="stable")
    kinds, starts = np.unique(labels[order], return_index=True)
    return order, starts, kinds


def hierarchical_interval(
    right: ArrayLike, n_samples: ArrayLike, seed: int = INTERVAL_SEED, level: float = LEVEL, draws: int = DRAWS
) -> tuple[float, float]:
    """The percentiles of `hierarchical_means`. Wider than `bootstrap_interval`: the noise of samples, which the spread
    of the problems' rates holds already, is added once more."""
    low, high = np.quantile(hierarchical_means(right, n_samples, seed, draws), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    seed: int = INTERVAL_SEED,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """Percentile bootstrap over problems of sum / sum. A draw whose denominators are all 0 counts as infinite, so
    the upper end is infinite where more than (1 - level) / 2 of the draws are."""
    pairs = np.stack([np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)], axis=1)
    pairs = pairs[np.lexsort(pairs.T[::-1])]  # the same for any order
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
    # Between two draws nothing is interpolated: infinity has no middle.
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def _resampled_means(values: Floats, generator: np.random.Generator, rows: int) -> Floats:
    chosen = generator.integers(0, values.size, size=(rows, values.size), dtype=np.int32)
    means: Floats = values.take(chosen).mean(axis=1)
    return means


def wilson_interval(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion, without continuity correction (Wilson 1927)."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, not {successes} of {n}")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    # At the ends the formula gives exactly 0 and 1. Floats give that 0, for centre and half are then one; not that 1.
    return centre - half, (1.0 if successes == n else centre + half)


def usable(clusters: Sequence[Hashable]) -> Sequence[Hashable] | None:
    """The clusters, when there are enough of them, and fewer than problems."""
    return clusters if FEWEST_CLUSTERS <= len(set(clusters)) < len(clusters) else None


def mean_interval(
    per_problem_values: Sequence[float],
    seed: int = INTERVAL_SEED,
    upper: float = 1.0,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """The 95% interval of a mean over problems, of a quantity that lies between 0 and `upper`.

    With a cluster for each problem the bootstrap draws whole clusters; see `usable`.

    Bootstrap over problems. Where all problems have one value the bootstrap says nothing (all right, all wrong: it
    would claim certainty), so there it is the Wilson interval of value / upper over the problems, which is that of
    the widest distribution with this mean. A single problem tells nothing of the others: the whole range.
    """
    n_problems = len(per_problem_values)
    spread = _spread(per_problem_values, upper)
    if n_problems == 1:
        return Interval(0.0, upper, "one problem says nothing of others: the whole range")
    if spread <= 1e-9 * upper:
        low, high = wilson_interval(math.fsum(per_problem_values) / upper, n_problems)
        return Interval(low * upper, high * upper, f"{LEVEL:.0%} Wilson over {n_problems} problems, all of one value")
    if clusters is not None and usable(clusters) is not None:
        sums, sizes = by_cluster(per_problem_values, clusters)
        low, high = ratio_interval(sums[0], sizes, seed)
        over = f"{sizes.size} clusters of {n_problems} problems"
    else:
        low, high = bootstrap_interval(per_problem_values, seed)
        over = f"{n_problems} problems"
    return Interval(low, high, f"{LEVEL:.0%} bootstrap over {over}, {DRAWS} draws, seed {seed}")


def by_cluster(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """The sums over each cluster of [problems] or [runs, problems], as [runs, clusters], and the clusters' sizes."""
    places = {label: place for place, label in enumerate(dict.fromkeys(clusters))}
    place_of = [places[label] for label in clusters]
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    sums = np.array([np.bincount(place_of, weights=row) for row in rows])
    return sums, np.bincount(place_of).astype(np.float64)


def rate_interval(right: Sequence[int], n_samples: Sequence[int], seed: int = INTERVAL_SEED) -> Interval:
    """The 95% interval of the mean rate of right samples, by `hierarchical_interval`; that of `mean_interval` where all
    problems have one rate."""
    rates = [c / n for c, n in zip(right, n_samples, strict=True)]
    if _spread(rates, 1.0) <= 1e-9:
        return mean_interval(rates, seed)
    low, high = hierarchical_interval(right, n_samples, seed)
    how = f"{LEVEL:.0%} bootstrap over {len(rates)} problems and the samples of each, {DRAWS} draws, seed {seed}"
    return Interval(low, high, how)


def _spread(values: Sequence[float], upper: float) -> float:
    array: NDArray[Any] = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not (np.min(array) >= 0 and np.max(array) <= upper):
        raise ValueError(f"an interval needs values between 0 and {upper}, at least one")
    return float(np.max(array) - np.min(array))
