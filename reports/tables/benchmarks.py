"""Models x benchmarks: avg@n of each row on each benchmark under one protocol, their mean, and the best marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import MarkedEstimate, Table
from harness.reports.footnotes import is_code, notes, without_power
from harness.reports.ranking import Values, estimates, mean_estimates
from harness.reports.run_facts import Cell
from harness.reports.samples import rates
from harness.reports.suites import Column, Row, Suite, suites, values_of
from harness.runs.folder import RunReader

COUNTS = ("model", "benchmark", "runs", "problems", "samples", "ungraded", "truncated", "no answer", "tokens a sample")


class Benchmarks(TableBuilder[RunReader]):
    """For each protocol the table of a paper, in percent, and one of the samples behind its cells.

    Rows are models, and trained methods, whose seeds are one row. The mean over benchmarks is of rows that have all.
    Benchmarks that run programs are in the table `code`.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        tables: list[Table] = []
        for suite in suites(runs):
            columns = [column for column in suite.columns if not is_code(suite.cards, column)]
            rows = [row for row in suite.rows if any(column in row.runs for column in columns)]
            if rows:
                tables += [_means(suite, rows, columns), counts(suite, rows, columns)]
        return tables


def _means(suite: Suite, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    values: Mapping[Column, list[Values | None]] = {
        column: [values_of(row, column, rates) for row in rows] for column in columns
    }
    n = suite.settings["samples a problem"]
    cells: dict[str, Sequence[MarkedEstimate | None]] = {
        column.title: estimates(f"{column.title} avg@{n}", values[column]) for column in columns
    }
    power = without_power(rows, cells)
    if len(columns) > 1:
        cells["mean"] = mean_estimates(
            "mean", [[values[column][place] for column in columns] for place in range(len(rows))]
        )
    table_rows: list[tuple[Cell, ...]] = [
        (row.label, *(cells[title][place] for title in cells)) for place, row in enumerate(rows)
    ]
    lines = [f"avg@{n} in percent: the share of right samples, over problems.", *power, *notes(suite, rows, columns)]
    return Table(f"Benchmarks: {suite.title}", ("model", *cells), tuple(table_rows), tuple(lines))


def counts(suite: Suite, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """Return how many samples are behind each cell, and how many of them were ungraded, cut off or without answer."""
    lines: list[tuple[Cell, ...]] = []
    for row in rows:
        for column in columns:
            found = row.samples(column)
            if not found:
                continue
            n_samples = sum(samples.n_samples for samples in found)
            n_problems = len({problem for samples in found for problem in samples.problems})
            n_ungraded = sum(int(samples.n_ungraded.sum()) for samples in found)
            n_cut, n_empty = (sum(getattr(s, f"n_{name}") for s in found) for name in ("truncated", "without_answer"))
            tokens = sum(samples.n_tokens for samples in found) / n_samples
            lines.append(
                (row.label, column.title, len(found), n_problems, n_samples, n_ungraded, n_cut, n_empty, tokens)
            )
    note = (
        "truncated: samples at the token limit; no answer: wrong, not cut off, and no answer that could be extracted."
    )
    return Table(f"Benchmarks, the samples: {suite.title}", COUNTS, tuple(lines), (note,))


TABLE = Benchmarks
