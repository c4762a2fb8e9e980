"""Significance: the difference of every pair of rows on each benchmark with its interval, and the p-values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.protocols import TableBuilder
from harness.core.types import Mark, MarkedEstimate, Table
from harness.reports.footnotes import notes
from harness.reports.ranking import SIGNIFICANT, Values, difference, difference_of_means, p_values
from harness.reports.run_facts import Cell
from harness.reports.samples import rates
from harness.reports.suites import Column, Row, Suite, suites, values_of
from harness.runs.folder import RunReader
from harness.stats.paired_tests import holm

NOTE = (
    "Row less column, of avg in percent, on the problems that both have. *: the difference is not 0 at 5% after Holm "
    "over all pairs of the table; the second table has these p-values."
)


@dataclass(frozen=True, slots=True)
class Pair:
    gap: MarkedEstimate
    p: float


class Significance(TableBuilder[RunReader]):
    """Two matrices for each benchmark, and for the mean over benchmarks: differences, and p-values after Holm."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        tables: list[Table] = []
        for suite in suites(runs):
            for column in suite.columns:
                tables += _of_column(suite, column)
            if len(suite.columns) > 1:
                tables += _of_mean(suite)
        return tables


def _of_column(suite: Suite, column: Column) -> list[Table]:
    found = [(row, values_of(row, column, rates)) for row in suite.rows]
    having = [(row, values) for row, values in found if values is not None]
    places = list(itertools.combinations(range(len(having)), 2))
    tested = p_values([(having[i][1], having[j][1]) for i, j in places])
    gaps = [difference(column.title, having[i][1], having[j][1]) for i, j in places]
    pairs = {pair: Pair(gap, p) for pair, gap, p in zip(places, gaps, tested, strict=True) if gap is not None}
    return _tables(suite, column.title, [row for row, _ in having], [column], pairs)


def _of_mean(suite: Suite) -> list[Table]:
    having: list[tuple[Row, list[Values]]] = []
    for row in suite.rows:
        values = [values_of(row, column, rates) for column in suite.columns]
        full = [v for v in values if v is not None and len(v.problems) > 1]
        if len(full) == len(suite.columns):
            having.append((row, full))
    pairs = {}
    for i, j in itertools.combinations(range(len(having)), 2):
        found = difference_of_means(having[i][1], having[j][1])
        if found is not None:
            margin, n = found.margin(), sum(len(values.problems) for values in having[i][1])
            method = f"t over the problems of {len(suite.columns)} benchmarks"
            ends = (found.mean, max(-1.0, found.mean - margin), min(1.0, found.mean + margin))
            pairs[i, j] = Pair(MarkedEstimate("mean", *ends, n, 0, 0, method), found.p_value())
    return _tables(suite, "mean over benchmarks", [row for row, _ in having], suite.columns, pairs)


def _tables(
    suite: Suite, title: str, rows: Sequence[Row], columns: Sequence[Column], pairs: dict[tuple[int, int], Pair]
) -> list[Table]:
    if not pairs:
        return []
    adjusted = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
    gaps: list[tuple[Cell, ...]] = []
    ps: list[tuple[Cell, ...]] = []
    for i, row in enumerate(rows):
        gaps.append((row.label, *(_gap(pairs, adjusted, i, j) for j in range(len(rows)))))
        ps.append((row.label, *(adjusted.get((min(i, j), max(i, j))) for j in range(len(rows)))))
    names = ("model", *(f"less {row.label}" for row in rows))
    footer = (NOTE, *notes(suite, rows, columns, ranked=False))
    return [
        Table(f"Differences on {title}: {suite.title}", names, tuple(gaps), footer),
        Table(
            f"p-values on {title}: {suite.title}",
            ("model", *(row.label for row in rows)),
            tuple(ps),
            ("After Holm over all pairs. With one run a row by the sign-flip test over problems, with several by t.",),
        ),
    ]


def _gap(
    pairs: dict[tuple[int, int], Pair], adjusted: dict[tuple[int, int], float], i: int, j: int
) -> MarkedEstimate | None:
    """Return row i less row j. A pair (i, j) holds the second less the first."""
    pair = pairs.get((min(i, j), max(i, j)))
    if pair is None:
        return None
    gap, sign = pair.gap, 1 if i > j else -1
    low, high = sorted((sign * gap.low, sign * gap.high))
    mark: Mark = "significant" if adjusted[min(i, j), max(i, j)] < SIGNIFICANT else ""
    return MarkedEstimate(
        gap.name, sign * gap.value, low, high, gap.n_problems, gap.n_completions, gap.n_ungraded, gap.method, mark
    )


TABLE = Significance
