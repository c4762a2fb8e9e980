"""Diversity of samples that fall into classes, and of vectors: rarefied, so that different numbers of samples compare.

`counts` are the numbers of samples in each class. A function of m draws m of the samples without replacement and
returns the expectation exactly, so that no random subset is needed and the order of samples has no effect.

This module imports numpy, so import it inside the function that uses it: the command line must start quickly.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.intervals import CHUNK_ELEMENTS, DRAWS, INTERVAL_SEED, LEVEL, Floats


def class_counts(classes: Sequence[Hashable]) -> tuple[int, ...]:
    """Return the number of samples of each class, the largest first."""
    return tuple(sorted(Counter(classes).values(), reverse=True))


def expected_frequencies(counts: Sequence[int], m: int) -> Floats:
    """Return for j = 0 .. m the expected number of classes that have j of m drawn samples.

    The number of drawn samples of a class is hypergeometric (Hurlbert 1971; Chao et al. 2014, appendix).
    """
    n = sum(counts)
    if not 1 <= m <= n or min(counts) < 1:
        raise ValueError(f"a draw of m needs counts of at least 1 and 1 <= m <= their sum, not m={m} of {counts}")
    kinds = Counter(counts)
    found = np.zeros(m + 1)
    for count, n_classes in kinds.items():
        found += n_classes * _hypergeometric(n, count, m)
    return found


@functools.lru_cache(maxsize=65536)
def _hypergeometric(n: int, count: int, m: int) -> Floats:
    """Return the probability of j = 0 .. m drawn samples of a class that has `count` of n."""
    ways = [math.comb(count, j) * math.comb(n - count, m - j) for j in range(m + 1)]
    every = math.comb(n, m)
    return np.array([way / every for way in ways])  # integers divided once: exact for any size


def coverage(counts: Sequence[int], m: int) -> float:
    """Return the expected number of classes among m drawn samples: the sum of 1 - C(n - c, m) / C(n, m)."""
    return min(float(m), float(expected_frequencies(counts, m)[1:].sum()))


def entropy(counts: Sequence[int], m: int) -> float:
    """Return the expected entropy in bits of the shares of the classes among m drawn samples."""
    shares = np.arange(1, m + 1) / m
    found = -(expected_frequencies(counts, m)[1:] * shares * np.log2(shares)).sum()
    return min(math.log2(m), max(0.0, float(found)))


def hill_number(counts: Sequence[int], m: int, order: int) -> float:
    """Return the Hill number of order 0, 1 or 2 of the expected frequencies among m drawn samples.

    (sum over j of (j / m)^q f_j)^(1 / (1 - q)), and for q = 1 its limit, the exponential of the entropy (Chao et al.
    2014). Order 0 counts classes, and higher orders count frequent classes.
    """
    if order == 0:
        return coverage(counts, m)
    if order == 1:
        return float(2 ** entropy(counts, m))
    shares = np.arange(1, m + 1) / m
    sum_of_powers = float((expected_frequencies(counts, m)[1:] * shares**order).sum())
    return min(float(m), max(1.0, float(sum_of_powers ** (1 / (1 - order)))))


def majority_share(counts: Sequence[int], m: int) -> float:
    """Return the expected share of the largest class among m drawn samples."""
    n = sum(counts)
    if not 1 <= m <= n or min(counts) < 1:
        raise ValueError(f"a draw of m needs counts of at least 1 and 1 <= m <= their sum, not m={m} of {counts}")
    return _majority_share(tuple(sorted(counts)), m)


@functools.lru_cache(maxsize=65536)
def _majority_share(counts: tuple[int, ...], m: int) -> float:
    every = math.comb(sum(counts), m)
    # The largest class has more than t samples in all draws but those in which each class has at most t.
    within = [_ways(counts, m, most) / every for most in range(m)]
    return math.fsum(1 - share for share in within) / m


def _ways(counts: Sequence[int], m: int, most: int) -> int:
    """Return how many draws of m samples have at most `most` of each class."""
    ways = [1] + [0] * m
    for count in counts:
        choices = [math.comb(count, j) for j in range(min(count, most) + 1)]
        ways = [
            sum(ways[done - j] * choices[j] for j in range(min(done, len(choices) - 1) + 1)) for done in range(m + 1)
        ]
    return ways[m]


def area_under(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the mean height of a curve over log2 of its sizes, by trapezoids. A finer grid gives nearly the same."""
    if len(sizes) == 1:
        return values[0]
    places, heights = np.log2(np.asarray(sizes, dtype=np.float64)), np.asarray(values, dtype=np.float64)
    areas = (heights[1:] + heights[:-1]) / 2 * np.diff(places)
    return float(areas.sum() / (places[-1] - places[0]))


def novelty_utility(counts: Sequence[int], utilities: Sequence[float], k: int, patience: float) -> float:
    """Return NoveltyBench's utility of k samples, in expectation over their order.

    (1 - p) / (1 - p^k) times the sum over i = 1 .. k of p^(i - 1) u_i, where u_i counts only if sample i is the first
    of its class. `utilities` has the mean utility of the samples of each class.
    """
    n = sum(counts)
    ratio = Counter(zip(counts, utilities, strict=True))
    total = 0.0
    for position in range(1, k + 1):
        firsts = (number * u * _first_at(n, count, position) for (count, u), number in ratio.items() if u)
        total += patience ** (position - 1) * math.fsum(firsts)
    return min(1.0, total * (1 - patience) / (1 - patience**k))


@functools.lru_cache(maxsize=65536)
def _first_at(n: int, count: int, position: int) -> float:
    """Return the probability that the first sample of a class is at this position of a random order."""
    return math.comb(n - position, count - 1) / math.comb(n, count)


# --- vectors ----------------------------------------------------------------------------------------------------


def unit_rows(rows: ArrayLike) -> Floats:
    """Return the rows scaled to length 1."""
    array = np.asarray(rows, dtype=np.float64)
    found: Floats = array / np.linalg.norm(array, axis=1, keepdims=True)
    return found


def mean_distance(directions: Floats) -> float:
    """Return the mean of 1 - cosine over all pairs of unit vectors.

    The squared length of their sum is n plus twice the sum of the pairs' cosines, so no matrix of pairs is made.
    """
    n, total = len(directions), directions.sum(axis=0)
    mean_cosine = (float(total @ total) - n) / (n * (n - 1))
    return min(2.0, max(0.0, 1 - mean_cosine))


def vendi_score(directions: Floats) -> float:
    """Return the exponential of the entropy of the eigenvalues of K / n, K being the cosines (Friedman, Dieng 2023).

    The n by n matrix of cosines and the matrix of the dimensions have the same eigenvalues other than 0; the smaller
    one is decomposed.
    """
    n, width = directions.shape
    gram = directions @ directions.T if n <= width else directions.T @ directions
    eigenvalues = np.linalg.eigvalsh(gram / n)
    kept = eigenvalues[eigenvalues > 1e-12]
    return min(float(n), max(1.0, float(np.exp(-(kept * np.log(kept)).sum()))))


def leader_clusters(directions: Floats, least_cosine: float) -> list[int]:
    """Return a cluster for each unit vector: the nearest first member with at least this cosine, or a new one."""
    labels: list[int] = []
    leaders: list[int] = []
    for place, direction in enumerate(directions):
        cosines = directions[leaders] @ direction if leaders else np.zeros(0)
        if cosines.size and cosines.max() >= least_cosine:
            labels.append(int(cosines.argmax()))
        else:
            labels.append(len(leaders))
            leaders.append(place)
    return labels


# --- agreement of two partitions --------------------------------------------------------------------------------


def pair_counts(first: Sequence[Hashable], second: Sequence[Hashable]) -> tuple[int, int, int, int]:
    """Return the numbers of pairs together in both partitions, in the first alone, in the second alone, in neither."""
    if len(first) != len(second):
        raise ValueError("two partitions of the same items are needed")
    together = sum(math.comb(c, 2) for c in Counter(zip(first, second, strict=True)).values())
    in_first = sum(math.comb(c, 2) for c in Counter(first).values())
    in_second = sum(math.comb(c, 2) for c in Counter(second).values())
    every = math.comb(len(first), 2)
    return together, in_first - together, in_second - together, every - in_first - in_second + together


def adjusted_rand(counts: Sequence[int]) -> float | None:
    """Return the adjusted Rand index (Hubert, Arabie 1985) of `pair_counts`, which add up over problems.

    It is Cohen's kappa of the decisions "same or not" on pairs. None where both partitions leave nothing to chance:
    everything in one class, or nothing together.
    """
    both, only_first, only_second, _ = counts
    every = sum(counts)
    if every == 0:
        return None
    expected = (both + only_first) * (both + only_second) / every
    largest = (2 * both + only_first + only_second) / 2
    if math.isclose(largest, expected):
        return None
    return (both - expected) / (largest - expected)


# --- intervals over problems, seeds and passes ------------------------------------------------------------------


def crossed_draws(
    arms: Sequence[ArrayLike],
    clusters: Sequence[Hashable] | None = None,
    seed: int = INTERVAL_SEED,
    draws: int = DRAWS,
) -> Floats:
    """Return the mean of each arm in each draw of a bootstrap: [draws, arms].

    An arm is [seeds, passes, problems]; seeds may differ in number. A draw takes the same problems, or whole clusters
    of them, and the same passes of a judge in all arms, so that they stay paired, and the seeds of each arm on their
    own.
    """
    values = [np.asarray(arm, dtype=np.float64) for arm in arms]
    _, n_passes, n_problems = values[0].shape
    labels = list(clusters) if clusters is not None else list(range(n_problems))
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    cluster_of = np.array([numbers[label] for label in labels])
    generator = np.random.default_rng(seed)
    found = np.empty((draws, len(values)))
    rows_at_once = max(1, CHUNK_ELEMENTS // max(n_problems, 1))
    for done in range(0, draws, rows_at_once):
        rows = min(rows_at_once, draws - done)
        times = _times(generator, len(numbers), rows)[:, cluster_of]
        passes = _times(generator, n_passes, rows) / n_passes
        for place, arm in enumerate(values):
            by_level = np.einsum("rq,spq->rsp", times, arm, optimize=True) / times.sum(axis=1)[:, None, None]
            seeds = _times(generator, len(arm), rows) / len(arm)
            found[done : done + rows, place] = np.einsum("rsp,rs,rp->r", by_level, seeds, passes)
    return found


def _times(generator: np.random.Generator, n: int, rows: int) -> Floats:
    return generator.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.float64)


def crossed_interval(draws: Floats) -> tuple[float, float]:
    """Return the 95% percentile interval of one column of `crossed_draws`, or of the difference of two."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def adjusted_rand_interval(
    counts: Sequence[Sequence[int]], seed: int = INTERVAL_SEED, draws: int = DRAWS
) -> tuple[float, float, float] | None:
    """Return the adjusted Rand index over all problems' pairs, and its 95% interval by a bootstrap over problems.

    `counts` are those of `pair_counts`, one for each problem. None where the index is not defined.
    """
    array = np.asarray(counts, dtype=np.int64).reshape(-1, 4)
    value = adjusted_rand(array.sum(axis=0).tolist()) if len(array) else None
    if value is None:
        return None
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(array), np.full(len(array), 1 / len(array)), size=draws) @ array
    kinds, sizes = np.unique(drawn, axis=0, return_counts=True)
    found = [adjusted_rand(kind) for kind in kinds.tolist()]
    known = [(index, size) for index, size in zip(found, sizes.tolist(), strict=True) if index is not None]
    spread = np.repeat([index for index, _ in known], [size for _, size in known])
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value, float(low), float(high)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, ties sharing their mean rank; 0 where a side has one value only."""
    ranks = [_ranks(np.asarray(side, dtype=np.float64)) for side in (first, second)]
    centred = [side - side.mean() for side in ranks]
    scale = math.sqrt(float(centred[0] @ centred[0]) * float(centred[1] @ centred[1]))
    return float(centred[0] @ centred[1]) / scale if scale > 0 else 0.0


def _ranks(values: Floats) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Floats = (ends - (counts - 1) / 2)[places]
    return found
