"""Arms compared in pairs: diversity at equal pass@1, differences at the last checkpoint, and sentences about them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.reports.frontier import Curves

if TYPE_CHECKING:
    from harness.stats.frontier import Matched, Point
    from harness.stats.intervals import Floats, Interval
    from harness.stats.paired_tests import PValue

MOST_ALL_PAIRS = 6
"""Up to so many arms all pairs are compared; with more, each arm with the first."""
ABOUT_EQUAL = 1.25
"""An interval of a ratio between 1 / 1.25 and 1.25 is called about equal."""
LEVELS = 20
"""Accuracies at which arms are compared in addition, to 1."""
SIGNIFICANT = 0.05


# --- diversity at equal pass@1 ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms at equal pass@1: the diversity of `arm` is divided by that of `against`."""

    arm: str
    against: str
    found: Matched | None
    """At the accuracy of `level_in`, where the test is; None where nothing can be compared."""
    others: Sequence[Matched] = ()
    """At the other multiples of .05 that both frontiers span."""
    why_not: str = ""
    p_holm: float | None = None


def pairs(curves: Curves) -> list[Pair]:
    """Compare the trained arms at equal pass@1, with Holm over the pairs."""
    found = [_pair(curves, arm, against) for against, arm in chosen_pairs(curves.trained)]
    adjusted = adjusted_by_holm([pair.found.p if pair.found is not None else None for pair in found])
    return [replace(pair, p_holm=p) for pair, p in zip(found, adjusted, strict=True)]


def chosen_pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs that are compared, the earlier arm first."""
    every = list(itertools.combinations(arms, 2))
    return every if len(arms) <= MOST_ALL_PAIRS else every[: len(arms) - 1]


def adjusted_by_holm(p_values: Sequence[PValue | None]) -> list[float | None]:
    from harness.stats.paired_tests import holm

    adjusted = iter(holm([value.p for value in p_values if value is not None]))
    return [next(adjusted) if value is not None else None for value in p_values]


def _pair(curves: Curves, arm: str, against: str) -> Pair:
    from harness.stats.frontier import level_in, matched, overlap

    first, second = curves.frontier(against), curves.frontier(arm)
    span = overlap(first, second)
    if span is None:
        reaches = " and ".join(f"{name} {_span(f.span)}" for name, f in ((against, first), (arm, second)))
        return Pair(arm, against, None, why_not=f"their frontiers have no pass@1 in common ({reaches})")
    level = level_in(span)
    others = [n / LEVELS for n in range(LEVELS + 1) if span[0] <= n / LEVELS <= span[1] and n / LEVELS != level]
    try:
        return Pair(arm, against, matched(first, second, level), [matched(first, second, at) for at in others])
    except ValueError as error:
        return Pair(arm, against, None, why_not=str(error))


def _span(span: tuple[float, float]) -> str:
    return f"{span[0]:.3f} to {span[1]:.3f}" if span[0] < span[1] else f"{span[0]:.3f}"


# --- differences at the last checkpoint -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of `arm` less that of `against`, both at the last checkpoint and one temperature."""

    arm: str
    against: str
    temperature: float
    metric: str
    value: float
    interval: Interval
    p: PValue | None
    p_holm: float | None = None


def differences(curves: Curves) -> list[Difference]:
    """Compare pass@1, pass@k and distinct@k of the trained arms, with Holm over all of them."""
    temperatures = sorted({point.temperature for arm in curves.trained for point in curves.arms[arm]}, reverse=True)
    found = [
        one
        for temperature in temperatures
        for against, arm in chosen_pairs(curves.trained)
        for one in _differences(curves, arm, against, temperature)
    ]
    adjusted = adjusted_by_holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def _differences(curves: Curves, arm: str, against: str, temperature: float) -> Iterator[Difference]:
    from harness.stats.paired_tests import crossed_interval, crossed_test

    first, second = curves.last(against, temperature), curves.last(arm, temperature)
    for metric, upper, of in metrics_of(curves):
        if first is not None and second is not None:
            one, two = (curves.counted(of(*side)) / upper for side in ((against, first), (arm, second)))
            interval = crossed_interval(one, two)
            scaled = replace(interval, low=interval.low * upper, high=interval.high * upper)
            gap = float(two.mean() - one.mean()) * upper
            yield Difference(arm, against, temperature, metric, gap, scaled, crossed_test(one, two))


def metrics_of(curves: Curves) -> list[tuple[str, float, Callable[[str, Point], Floats]]]:
    """Return the metrics of a point: name, largest value, and how to read it."""
    return [
        ("pass@1", 1.0, lambda _, point: point.accuracy),
        (f"distinct@{curves.k}", float(curves.k), lambda _, point: point.diversity),
        (f"pass@{curves.k}", 1.0, lambda arm, point: curves.solved[arm, (point.step, point.temperature)]),
    ]


# --- sentences --------------------------------------------------------------------------------------------------


def sentences(curves: Curves, compared: Sequence[Pair]) -> list[str]:
    """Return what the intervals allow to say, whichever way they fall."""
    return [*(_sentence(pair) for pair in compared), about_seeds(curves)]


def _sentence(pair: Pair) -> str:
    found = pair.found
    if found is None:
        return f"{pair.arm} and {pair.against} can't be compared at equal pass@1: {pair.why_not}."
    low, high = found.ratio_interval.low, found.ratio_interval.high
    at = f"At equal pass@1 of {found.accuracy:.3g}"
    if low <= 1 <= high:
        times = f"{pair.arm} has {_times(low, high)} times the distinct solutions of {pair.against}"
        if low >= 1 / ABOUT_EQUAL and high <= ABOUT_EQUAL:
            return f"{at}, {pair.arm} and {pair.against} do about equally well: {times}."
        return f"{at}, {pair.arm} and {pair.against} can't be distinguished: {times}."
    more, less = (pair.arm, pair.against) if low > 1 else (pair.against, pair.arm)
    times = _times(low, high) if low > 1 else _times(1 / high, 1 / low)
    is_weak = pair.p_holm is not None and pair.p_holm >= SIGNIFICANT
    weaker = f" (not significant after Holm, p = {pair.p_holm:.2g})" if is_weak else ""
    return f"{at}, {more} has {times} times the distinct solutions of {less}{weaker}."


def _times(low: float, high: float) -> str:
    """Round outwards, so that the printed interval holds what the computed one does."""
    return f"{math.floor(low * 100) / 100:.2f} to {math.ceil(high * 100) / 100:.2f}"


def about_seeds(curves: Curves) -> str:
    """Return which sources of chance the intervals count."""
    n_seeds = {len(curves.seeds[arm]) for arm in curves.trained}
    over = f"Intervals are over {len(curves.problems)} problems"
    if not n_seeds:
        return f"{over}; no arm was trained."
    if n_seeds == {1}:
        return f"ONE SEED of each arm proves nothing about the methods. {over}: another seed may turn the order around."
    if not curves.counts_seeds:
        return f"{over}, for these trainings alone; the seeds are points. Methods need three seeds or more."
    few = " FEW SEEDS: two a side decide little." if min(n_seeds) <= 2 else ""
    return f"{over} and over the seeds of each arm.{few}"
