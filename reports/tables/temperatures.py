"""Temperatures: avg@n of each row at each temperature, the rest of the protocol being the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import MarkedEstimate, Table
from harness.reports.footnotes import notes, without_power
from harness.reports.ranking import Values, estimates, mean_estimates
from harness.reports.run_facts import Cell
from harness.reports.samples import rates
from harness.reports.suites import Column, Suite, suites, values_of
from harness.runs.folder import RunReader


class Temperatures(TableBuilder[RunReader]):
    """One row for each model or method and temperature, where a protocol was run at several temperatures.

    The best of a column is marked within each temperature.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        return [_table(suite) for suite in suites(runs, free=("temperature",)) if len(_temperatures(suite)) > 1]


def _temperatures(suite: Suite) -> list[Cell]:
    return list(dict.fromkeys(setting for column in suite.columns for setting in column.settings))


def _table(suite: Suite) -> Table:
    tasks = list(dict.fromkeys(column.task for column in suite.columns))
    n = suite.settings["samples a problem"]
    lines: list[tuple[Cell, ...]] = []
    power: list[str] = []
    for temperature in _temperatures(suite):
        columns = [Column(task, (temperature,)) for task in tasks]
        rows = [row for row in suite.rows if any(column in row.runs for column in columns)]
        values: Mapping[str, list[Values | None]] = {
            column.task: [values_of(row, column, rates) for row in rows] for column in columns
        }
        cells: dict[str, list[MarkedEstimate | None]] = {
            task: estimates(f"{task} avg@{n}, T {temperature}", values[task]) for task in tasks
        }
        power += without_power(rows, {f"{task}, T {temperature}": cells[task] for task in tasks})
        if len(tasks) > 1:
            cells["mean"] = mean_estimates(f"mean, T {temperature}", list(zip(*values.values(), strict=True)))
        lines += [(row.label, temperature, *(cells[name][place] for name in cells)) for place, row in enumerate(rows)]
    columns_shown = ("model", "temperature", *tasks, *(["mean"] if len(tasks) > 1 else []))
    footer = (
        f"avg@{n} in percent, at each temperature. A mark compares the rows of one temperature.",
        *power,
        *notes(suite, suite.rows, suite.columns),
    )
    return Table(f"Temperatures: {suite.title}", columns_shown, tuple(lines), footer)


TABLE = Temperatures
