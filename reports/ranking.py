"""Columns of values that rank their rows: the best, and those that are not significantly worse.

Two rows are compared on the problems that all of their runs have: with one run each by the sign-flip test of `harness
compare`, with several by its t test over runs and problems. The p-values of a column are adjusted by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.types import Mark, MarkedEstimate
from harness.reports.power import no_power
from harness.stats.intervals import Floats, interval_over_runs, usable
from harness.stats.paired_tests import MeanOfSets, crossed_interval, crossed_test, holm, mean_of_sets, sign_flips

SIGNIFICANT = 0.05
Test = Callable[[int, Sequence[int]], list[float]]
"""The row that is best and other rows -> p-values of no difference."""


@dataclass(frozen=True, slots=True)
class Values:
    """A value of each problem in each run of a row, which lies between 0 and `upper`."""

    problems: tuple[str, ...]
    by_run: Floats
    """[runs, problems]"""
    clusters: Mapping[str, str]
    n_completions: int
    n_ungraded: int
    is_complete: bool = True
    """Whether all of its runs are done. Others are shown and not ranked."""
    upper: float = 1.0

    @classmethod
    def of(
        cls, runs: Sequence[Mapping[str, float]], clusters: Mapping[str, str], n_completions: int, n_ungraded: int
    ) -> Values | None:
        """Return the values of the problems that all runs have; None if there are none."""
        shared = sorted(set.intersection(*(set(values) for values in runs))) if runs else []
        if not shared:
            return None
        by_run = np.array([[values[problem] for problem in shared] for values in runs])
        return cls(tuple(shared), by_run, clusters, n_completions, n_ungraded)

    @property
    def mean(self) -> float:
        return math.fsum(self.by_run.mean(axis=0).tolist()) / len(self.problems)

    def on(self, problems: Sequence[str]) -> Floats:
        """Return the values of some of the problems. [runs, problems]"""
        if tuple(problems) == self.problems:
            return self.by_run
        place = {problem: number for number, problem in enumerate(self.problems)}
        return self.by_run[:, [place[problem] for problem in problems]]

    def estimate(self, name: str, *, in_percent: bool = True) -> MarkedEstimate:
        """Return the mean over problems with its interval over problems and runs."""
        families = _families(self.problems, self.clusters)
        interval = interval_over_runs(self.by_run, self.upper, families)
        counts = (len(self.problems), self.n_completions, self.n_ungraded)
        return MarkedEstimate(
            name, self.mean, interval.low, interval.high, *counts, interval.method, in_percent=in_percent
        )


def _families(problems: Sequence[str], clusters: Mapping[str, str]) -> Sequence[Hashable] | None:
    return usable([f"of {clusters[p]}" if p in clusters else p for p in problems]) if clusters else None


# --- one set of problems ------------------------------------------------------------------------------------------


def p_values(pairs: Sequence[tuple[Values, Values]]) -> list[float]:
    """Return the p-value of no difference for each pair of rows; 1 where they have no problem in common."""
    found = [1.0] * len(pairs)
    single: dict[int, Floats] = {}
    for place, (one, other) in enumerate(pairs):
        shared = _shared(one, other)
        if not shared:
            continue
        ours, theirs, families = one.on(shared), other.on(shared), _families(shared, {**one.clusters, **other.clusters})
        if len(ours) + len(theirs) > 2:
            scale = max(1.0, one.upper, other.upper)
            tested = crossed_test(ours / scale, theirs / scale, families)
            found[place] = tested.p if tested is not None else 1.0
            continue
        differences = theirs[0] - ours[0]
        if families is not None:
            _, places = np.unique(np.array(families, dtype=object).astype(str), return_inverse=True)
            differences = np.bincount(places, weights=differences)
        single[place] = np.where(np.abs(differences) < 1e-12, 0.0, differences)
    for size in {values.size for values in single.values()}:  # pairs of as many problems are tested together
        places_of_size = [place for place, values in single.items() if values.size == size]
        tested_together = sign_flips(np.array([single[place] for place in places_of_size]))
        found = [
            tested_together[places_of_size.index(place)] if place in places_of_size else p
            for place, p in enumerate(found)
        ]
    return found


def _shared(one: Values, other: Values) -> Sequence[str]:
    return one.problems if one.problems == other.problems else sorted(set(one.problems) & set(other.problems))


def marks(column: Sequence[Values | None], *, lower_is_better: bool = False) -> list[Mark]:
    """Return the mark of each row: the best, those not significantly worse than it, and nothing for the others."""
    ranked = [place for place, values in enumerate(column) if values is not None and values.is_complete]
    sign = -1.0 if lower_is_better else 1.0

    def test(best: int, others: Sequence[int]) -> list[float]:
        return p_values([(_at(column, best), _at(column, other)) for other in others])

    return _marks(len(column), ranked, {place: sign * _at(column, place).mean for place in ranked}, test)


def _at(column: Sequence[Values | None], place: int) -> Values:
    values = column[place]
    assert values is not None
    return values


def _marks(n_rows: int, ranked: Sequence[int], scores: Mapping[int, float], test: Test) -> list[Mark]:
    found: list[Mark] = [""] * n_rows
    if len(ranked) < 2:
        return found
    best = max(ranked, key=lambda place: (scores[place], -place))
    others = [place for place in ranked if place != best]
    for place, p in zip(others, holm(test(best, others)), strict=True):
        if p >= SIGNIFICANT:
            found[place] = "tied"
    found[best] = "best"
    return found


def estimates(
    name: str, column: Sequence[Values | None], *, in_percent: bool = True, lower_is_better: bool = False
) -> list[MarkedEstimate | None]:
    """Return the cells of a column with their marks; without marks where all rows are at the ceiling or the floor."""
    has_power = not in_percent or not all(no_power(values.mean) for values in column if values is not None)
    ranks: list[Mark] = marks(column, lower_is_better=lower_is_better) if has_power else [""] * len(column)
    return [
        replace(values.estimate(name, in_percent=in_percent), mark=mark) if values is not None else None
        for values, mark in zip(column, ranks, strict=True)
    ]


def difference(name: str, first: Values, second: Values) -> MarkedEstimate | None:
    """Return second less first with its interval, on the problems that both have; None if they share none."""
    shared = _shared(first, second)
    if not shared:
        return None
    scale = max(1.0, first.upper, second.upper)
    ours, theirs = first.on(shared) / scale, second.on(shared) / scale
    interval = crossed_interval(ours, theirs, _families(shared, {**first.clusters, **second.clusters}))
    gap = scale * float((theirs.mean(axis=0) - ours.mean(axis=0)).mean())
    counts = (len(shared), first.n_completions + second.n_completions, first.n_ungraded + second.n_ungraded)
    return MarkedEstimate(name, gap, scale * interval.low, scale * interval.high, *counts, interval.method)


def ranked_by(
    column: Sequence[MarkedEstimate | None], p_value: Callable[[MarkedEstimate, MarkedEstimate], float]
) -> list[MarkedEstimate | None]:
    """Return estimates with their marks, by a test of two of them."""
    cells = {place: cell for place, cell in enumerate(column) if cell is not None}

    def test(best: int, others: Sequence[int]) -> list[float]:
        return [p_value(cells[best], cells[other]) for other in others]

    found = _marks(len(column), list(cells), {place: cell.value for place, cell in cells.items()}, test)
    return [replace(cell, mark=mark) if cell is not None else None for cell, mark in zip(column, found, strict=True)]


# --- the mean over sets -------------------------------------------------------------------------------------------


def mean_estimates(name: str, rows: Sequence[Sequence[Values | None]]) -> list[MarkedEstimate | None]:
    """Return the means over benchmarks, each benchmark of equal weight, of the rows that have all of them."""
    full = {place: [v for v in row if v is not None] for place, row in enumerate(rows) if row and None not in row}
    full = {place: row for place, row in full.items() if all(len(values.problems) > 1 for values in row)}
    found: list[MarkedEstimate | None] = [None] * len(rows)
    ranked = [place for place, row in full.items() if all(values.is_complete for values in row)]

    def test(best: int, others: Sequence[int]) -> list[float]:
        found = [difference_of_means(full[best], full[other]) for other in others]
        return [one.p_value() if one is not None else 1.0 for one in found]

    scores = {place: sum(values.mean for values in row) for place, row in full.items()}
    for place, mark in enumerate(_marks(len(rows), ranked, scores, test)):
        if place in full:
            found[place] = replace(_mean_estimate(name, full[place]), mark=mark)
    return found


def _mean_estimate(name: str, row: Sequence[Values]) -> MarkedEstimate:
    """Return the mean with the margins of the benchmarks added by the root of the sum of squares."""
    cells = [values.estimate(name) for values in row]
    whole = mean_of_sets(None, [values.by_run for values in row], [_families(v.problems, v.clusters) for v in row])
    alone = [Values.estimate(replace(v, by_run=v.by_run.mean(axis=0, keepdims=True)), name) for v in row]
    n = len(row)
    mean = math.fsum(cell.value for cell in cells) / n
    seeds = whole.seeds
    of_runs = MeanOfSets(0.0, 0.0, 1.0, seeds).margin() if seeds is not None else 0.0
    below = math.hypot(of_runs, *((cell.value - cell.low) / n for cell in alone))
    above = math.hypot(of_runs, *((cell.high - cell.value) / n for cell in alone))
    method = f"margins of {n} benchmarks, root of the sum of squares" + (f"; {seeds.method} over runs" if seeds else "")
    counts = (sum(c.n_problems for c in cells), sum(c.n_completions for c in cells), sum(c.n_ungraded for c in cells))
    return MarkedEstimate(name, mean, max(0.0, mean - below), min(1.0, mean + above), *counts, method)


def difference_of_means(first: Sequence[Values], second: Sequence[Values]) -> MeanOfSets | None:
    """Return the mean over benchmarks of second less first, on the problems that both have.

    None where a benchmark has fewer than two of these.
    """
    shared = [_shared(one, other) for one, other in zip(first, second, strict=True)]
    if min(map(len, shared)) < 2:
        return None
    families = [
        _families(problems, {**one.clusters, **other.clusters})
        for problems, one, other in zip(shared, first, second, strict=True)
    ]
    ours = [one.on(problems) for one, problems in zip(first, shared, strict=True)]
    theirs = [other.on(problems) for other, problems in zip(second, shared, strict=True)]
    return mean_of_sets(ours, theirs, families)
