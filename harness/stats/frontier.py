"""The accuracy-diversity frontier of an arm, and the diversity of two arms at equal accuracy.

An arm is measured at points: checkpoints times temperatures. Each has an accuracy (pass@1) and a diversity (distinct
right solutions among N samples, or their share of all). A single number of diversity compares little: training trades
one for the other, and so does the temperature.

The frontier is the upper concave hull of the points. What lies between two of them can be had: sampling from one with
probability q and else from the other has the accuracy on the segment, and at least its diversity, since the expected
number of distinct solutions is concave in the probabilities. A polyline through all undominated points jumps when one
of them becomes dominated, and its intervals cover less.

Values are [seeds, problems]. Problems are paired between arms, seeds are not.

This module imports numpy, so import it inside the function that uses it: the command line must start quickly.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.distributions import t_quantile
from harness.stats.intervals import LEVEL, Floats, Interval, mean_interval, pass_at_k
from harness.stats.paired_tests import PValue, crossed_interval, crossed_test

Clusters = Sequence[Hashable] | None


def distinct_among(n_samples: Sequence[int], solutions: Sequence[Sequence[int]], k: int) -> list[float]:
    """Return for each cell the expected number of distinct right solutions among k of its samples (Hurlbert 1971).

    `solutions` has the number of samples of each solution: the sum over them of 1 - C(n - c, k) / C(n, k).
    """
    sizes = [len(counts) for counts in solutions]
    chances = pass_at_k(np.repeat(np.asarray(n_samples), sizes), [c for counts in solutions for c in counts], k)
    ends = np.cumsum(sizes).tolist()
    # Rounding must not lift a sum over k certain solutions above k.
    return [min(float(k), math.fsum(chances[end - size : end])) for size, end in zip(sizes, ends, strict=True)]


def seeded_interval(values: ArrayLike, upper: float = 1.0, clusters: Clusters = None) -> Interval:
    """Return the 95% interval of a mean over runs (seeds) and problems, of a quantity between 0 and `upper`.

    The margin over problems is that of `mean_interval` of the means over runs, so it stays open where all problems have
    one value. With several runs the t margin of their means is added by the root of the sum of squares, as in
    `crossed_interval`. A bootstrap over two or three runs would be too narrow.
    """
    rows: Floats = np.atleast_2d(np.asarray(values, dtype=np.float64))
    interval = mean_interval(rows.mean(axis=0).clip(0, upper).tolist(), upper, clusters)
    n_runs, n_problems = rows.shape
    if n_runs == 1 or n_problems == 1:
        return interval
    mean, spread = float(rows.mean()), float(rows.mean(axis=1).std(ddof=1))
    of_runs = t_quantile(LEVEL, n_runs - 1) * spread / math.sqrt(n_runs)
    low, high = mean - math.hypot(mean - interval.low, of_runs), mean + math.hypot(interval.high - mean, of_runs)
    return Interval(max(0.0, low), min(upper, high), f"{interval.method} and {n_runs} runs (t)")


# --- one arm ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """An arm at one checkpoint and temperature. Both arrays are [seeds, problems]."""

    step: int
    temperature: float
    accuracy: Floats
    diversity: Floats

    @property
    def at(self) -> tuple[float, float]:
        """The mean accuracy and the mean diversity."""
        return float(self.accuracy.mean()), float(self.diversity.mean())


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """The points of an arm on its frontier, by rising accuracy and falling diversity."""

    points: tuple[Point, ...]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Frontier:
        """Keep the vertices of the upper concave hull, from the most diverse point to the most accurate one.

        All points have the same seeds and problems.
        """
        if not points or len({values.shape for p in points for values in (p.accuracy, p.diversity)}) != 1:
            raise ValueError("a frontier needs at least one point, and all with the same seeds and problems")
        kept: list[Point] = []
        for point in sorted(points, key=lambda p: p.at, reverse=True):
            if kept and point.at[1] <= kept[-1].at[1]:
                continue
            while len(kept) > 1 and _is_below(kept[-2].at, kept[-1].at, point.at):
                kept.pop()
            kept.append(point)
        return cls(tuple(reversed(kept)))

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest accuracy of the frontier."""
        return self.points[0].at[0], self.points[-1].at[0]

    def around(self, accuracy: float) -> tuple[Point, Point]:
        """Return the neighbouring points between which this accuracy lies. Raises ValueError where there are none."""
        for left, right in pairwise(self.points):
            if left.at[0] <= accuracy <= right.at[0]:
                return left, right
        low, high = self.span
        raise ValueError(f"the frontier spans an accuracy of {low:.3f} to {high:.3f}, without {accuracy:.3f}")

    def at(self, accuracy: float) -> Floats:
        """Return values whose mean is the diversity at this accuracy: [seeds, problems].

        They are linear in those of the two points around it: the interpolation at the mean accuracies, plus its
        derivative times the deviations of a seed and a problem (the delta method). So an interval or a test of them
        holds the noise of the accuracies between which it is interpolated too.
        """
        left, right = self.around(accuracy)
        (start, first), (end, last) = left.at, right.at
        weight = (accuracy - start) / (end - start)
        height = (1 - weight) * left.diversity + weight * right.diversity
        shift = (1 - weight) * (left.accuracy - start) + weight * (right.accuracy - end)
        found: Floats = height - (last - first) / (end - start) * shift
        return found

    def interval(self, accuracy: float, clusters: Clusters = None) -> Interval:
        """Return the 95% interval of the diversity at this accuracy, over runs and problems."""
        values = self.at(accuracy)
        return _interval(np.zeros_like(values), values, clusters)  # runs without spread add nothing to Welch's error


def _is_below(right: tuple[float, float], middle: tuple[float, float], left: tuple[float, float]) -> bool:
    """Whether the middle point lies on or below the segment between the others."""
    share = (middle[0] - left[0]) / (right[0] - left[0])
    return middle[1] <= left[1] + share * (right[1] - left[1])


# --- two arms at equal accuracy ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Matched:
    """Two arms at equal accuracy: the diversity of each, and how many times as much the second has."""

    accuracy: float
    first: float
    second: float
    ratio: float
    """second / first"""
    ratio_interval: Interval
    difference: float
    difference_interval: Interval
    p: PValue | None
    """Of a ratio of 1, counting seeds. None with one run a side."""


def overlap(first: Frontier, second: Frontier) -> tuple[float, float] | None:
    """Return the accuracies that both frontiers span; None if they have none, or a single one, in common."""
    low, high = (max(first.span[0], second.span[0]), min(first.span[1], second.span[1]))
    return (low, high) if low < high else None


def level_in(span: tuple[float, float]) -> float:
    """Return the accuracy at which to compare: the multiple of .05 nearest to the middle, else of .01, else the middle.

    A round number depends on the data less than the middle itself does, which may lie beyond where a true frontier
    ends: intervals at it cover less.
    """
    middle = (span[0] + span[1]) / 2
    for steps in (20, 100):
        if span[0] <= (level := round(middle * steps) / steps) <= span[1]:
            return level
    return middle


def matched(first: Frontier, second: Frontier, accuracy: float, clusters: Clusters = None) -> Matched:
    """Compare the diversity of two arms at equal accuracy.

    Raises ValueError where a frontier does not reach: nothing is extrapolated. The ratio's interval is that of the
    difference of logarithms, by the delta method; seeds and problems count as in `crossed_interval`.
    """
    one, two = first.at(accuracy), second.at(accuracy)
    means = float(one.mean()), float(two.mean())
    if min(means) <= 0:
        raise ValueError(f"no ratio at an accuracy of {accuracy:.3f}: an arm has a diversity of 0 there")
    logs = [math.log(mean) + values / mean for values, mean in zip((one, two), means, strict=True)]
    of_logs, of_values = _interval(logs[0], logs[1], clusters), _interval(one, two, clusters)
    ends = Interval(math.exp(of_logs.low), math.exp(of_logs.high), f"{of_logs.method}, of logarithms")
    p = crossed_test(logs[0], logs[1], clusters)
    return Matched(accuracy, *means, means[1] / means[0], ends, means[1] - means[0], of_values, p)


def _interval(first: Floats, second: Floats, clusters: Clusters) -> Interval:
    """Return `crossed_interval` of values without bounds: none differs twice as much as the most that was seen."""
    most = 2 * float(np.abs(second.mean(axis=0) - first.mean(axis=0)).max())
    scale = most if most > 0 else 1.0
    interval = crossed_interval(first / scale, second / scale, clusters)
    return Interval(interval.low * scale, interval.high * scale, interval.method)
