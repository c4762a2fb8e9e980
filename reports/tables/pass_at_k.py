"""pass@k up to the number of samples, a table for each benchmark and protocol, with rollouts per training problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from harness.core.protocols import TableBuilder
from harness.core.types import MarkedEstimate, Table
from harness.reports.footnotes import notes, rollouts_per_problem, without_power
from harness.reports.ranking import estimates
from harness.reports.run_facts import Cell
from harness.reports.samples import pass_rates, powers_of_two
from harness.reports.suites import Column, Row, Suite, suites, values_of
from harness.runs.folder import RunReader

NOTE = (
    "pass@k in percent, unbiased from all samples of a problem. Gains at k = 1 that are gone at high k are sharpening: "
    "rollouts a problem says how often training saw one."
)


class PassAtKTable(TableBuilder[RunReader]):
    """One row for each model or method with several samples of a problem, k = 1, 2, 4 ... n."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        found = (_table(suite, column) for suite in suites(runs) for column in suite.columns)
        return [table for table in found if table is not None]


def _table(suite: Suite, column: Column) -> Table | None:
    rows = [row for row in suite.rows if row.samples(column)]
    most = min((samples.fewest for row in rows for samples in row.samples(column)), default=0)
    if most < 2:
        return None
    cells: Mapping[str, list[MarkedEstimate | None]] = {
        f"pass@{k}": estimates(
            f"{column.title} pass@{k}", [values_of(row, column, partial(pass_rates, k=k)) for row in rows]
        )
        for k in powers_of_two(most)
    }
    trained = any(row.trainers for row in rows)
    lines: list[tuple[Cell, ...]] = [
        (row.label, *([_rollouts(row)] if trained else []), *(cells[title][place] for title in cells))
        for place, row in enumerate(rows)
    ]
    leading = ("model", *(["rollouts a problem"] if trained else []))
    footer = (NOTE, *without_power(rows, cells), *notes(suite, rows, [column]))
    return Table(f"pass@k on {column.title}: {suite.title}", (*leading, *cells), tuple(lines), footer)


def _rollouts(row: Row) -> float | None:
    found = [number for trainer in row.trainers if (number := rollouts_per_problem(trainer)) is not None]
    return sum(found) / len(found) if found else None


TABLE = PassAtKTable
