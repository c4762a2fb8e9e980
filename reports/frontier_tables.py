"""The tables of a study from its curves: the frontier, its seeds, and the comparisons of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.core.types import Estimate, Table
from harness.reports.frontier import Curves
from harness.reports.matched import Difference, Pair, about_seeds, differences, metrics_of, pairs, sentences

if TYPE_CHECKING:
    from harness.stats.frontier import Matched
    from harness.stats.intervals import Floats, Interval

Row = tuple[str | int | float | Estimate | None, ...]


def frontier_tables(curves: Curves, n_solutions: Mapping[str, int] | None = None) -> list[Table]:
    """Return the table of all points, and that of their seeds where an arm has several.

    `n_solutions` has the number of all solutions of each problem, where it is known: coverage is the found share.
    """
    tables = [_points(curves, n_solutions)]
    return [*tables, _seeds(curves)] if max(map(len, curves.seeds.values())) > 1 else tables


def matched_tables(curves: Curves) -> list[Table]:
    """Return the comparison at equal pass@1 with its sentences, and the differences at the last checkpoint."""
    compared = pairs(curves)
    if not compared:
        return []
    return [_matched(curves, compared), _differences(curves, differences(curves))]


# --- the frontier -----------------------------------------------------------------------------------------------


def _points(curves: Curves, n_solutions: Mapping[str, int] | None) -> Table:
    metrics = metrics_of(curves)
    names = [name for name, _, _ in metrics]
    sizes = _sizes(curves, n_solutions)
    rows: list[Row] = []
    for arm, points in curves.arms.items():
        vertices = {(point.step, point.temperature) for point in curves.frontier(arm).points}
        for point in points:
            place = (point.step, point.temperature)
            cells = [_mean(curves, name, of(arm, point), upper) for name, upper, of in metrics]
            if sizes is not None:
                cells.append(_mean(curves, "coverage", point.diversity / sizes, 1.0))
            on = "yes" if place in vertices else "no"
            rows.append((arm, len(curves.seeds[arm]), *place, on, *cells))
    columns = (
        "arm",
        "seeds",
        "step",
        "temperature",
        "on frontier",
        *names,
        *(["coverage"] if sizes is not None else []),
    )
    notes = [
        f"distinct@{curves.k}: different right solutions among {curves.k} samples, the fewest that a cell has.",
        "on frontier: whether no other point of the arm, or mixture of two, has more of both.",
        *(["coverage: the share of all solutions of a problem that these are."] if sizes is not None else []),
        about_seeds(curves),
        *curves.notes,
    ]
    return Table(f"Accuracy-diversity frontier of {_of(curves)}", columns, tuple(rows), tuple(notes))


def _sizes(curves: Curves, n_solutions: Mapping[str, int] | None) -> Floats | None:
    import numpy as np

    if n_solutions is None or not all(n_solutions.get(problem) for problem in curves.problems):
        return None
    return np.array([float(n_solutions[problem]) for problem in curves.problems])


def _of(curves: Curves) -> str:
    return f"{curves.task}, {len(curves.problems)} {curves.split} problems"


def _mean(curves: Curves, name: str, values: Floats, upper: float) -> Estimate:
    from harness.stats.frontier import seeded_interval

    return _estimate(curves, name, float(values.mean()), seeded_interval(curves.counted(values), upper))


def _estimate(curves: Curves, name: str, value: float, interval: Interval) -> Estimate:
    return Estimate(name, value, interval.low, interval.high, len(curves.problems), 0, 0, interval.method)


def _seeds(curves: Curves) -> Table:
    """Return the training curve of each seed: its means at each checkpoint, without intervals."""
    metrics = metrics_of(curves)
    rows: list[Row] = [
        (arm, seed, point.step, point.temperature, *(float(of(arm, point)[place].mean()) for _, _, of in metrics))
        for arm, points in curves.arms.items()
        for place, seed in enumerate(curves.seeds[arm])
        for point in points
    ]
    columns = ("arm", "seed", "step", "temperature", *(name for name, _, _ in metrics))
    return Table(f"Seeds of {_of(curves)}", columns, tuple(rows))


# --- pairs ------------------------------------------------------------------------------------------------------


def _matched(curves: Curves, compared: Sequence[Pair]) -> Table:
    d = f"distinct@{curves.k}"
    columns = ("arm", "against", "pass@1", d, f"{d} of against", "ratio", "difference", "p", "p (Holm)")
    rows = [row for pair in compared for row in _pair_rows(curves, pair)]
    notes = [
        *sentences(curves, compared),
        "ratio: distinct solutions of the arm, divided by those of `against`, where both frontiers have this pass@1. "
        "The first row of a pair is the tested one.",
        "p counts seeds, and is absent where no arm has several."
        if curves.counts_seeds
        else "p: none, since seeds are not counted.",
        *curves.notes,
    ]
    return Table(f"Distinct solutions at equal pass@1: {_of(curves)}", columns, tuple(rows), tuple(notes))


def _pair_rows(curves: Curves, pair: Pair) -> Iterator[Row]:
    if pair.found is None:
        yield (pair.arm, pair.against, None, None, None, None, None, None, None)
        return
    p = pair.found.p.p if pair.found.p is not None else None
    yield (pair.arm, pair.against, *_matched_cells(curves, pair.found), p, pair.p_holm)
    for other in pair.others:
        yield (pair.arm, pair.against, *_matched_cells(curves, other), None, None)


def _matched_cells(curves: Curves, found: Matched) -> Row:
    ratio = _estimate(curves, "ratio", found.ratio, found.ratio_interval)
    difference = _estimate(curves, "difference", found.difference, found.difference_interval)
    return found.accuracy, found.second, found.first, ratio, difference


def _differences(curves: Curves, found: Sequence[Difference]) -> Table:
    columns = ("arm", "less", "temperature", "metric", "difference", "p", "p (Holm)")
    rows = [
        (
            *(one.arm, one.against, one.temperature, one.metric),
            _estimate(curves, "difference", one.value, one.interval),
            *(one.p.p if one.p is not None else None, one.p_holm),
        )
        for one in found
    ]
    notes = ("At the last checkpoint of each arm, on the same problems.", about_seeds(curves))
    return Table(f"Differences of {_of(curves)}", columns, tuple(rows), notes)
