"""Ablations: trained methods that differ in settings of their objective alone, with the settings as columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import MarkedEstimate, Table
from harness.reports.footnotes import notes, without_power
from harness.reports.ranking import Values, difference_of_means, estimates, mean_estimates
from harness.reports.run_facts import Cell
from harness.reports.samples import rates
from harness.reports.suites import Row, Suite, differing_settings, suites, values_of
from harness.runs.folder import RunReader

OBJECTIVE = "objective"
NAME = "objective.id"


class Ablations(TableBuilder[RunReader]):
    """For each protocol and family of objectives (flowrl, flowrl_ablation ...), rows that differ in nothing else.

    The settings that differ, such as beta, the weight or log Z, are the first columns. `less first row` is the
    difference of the mean over benchmarks.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        found = []
        for suite in suites(runs):
            families: dict[str, list[Row]] = {}
            for row in suite.rows:
                if NAME in row.settings:
                    families.setdefault(_family(row), []).append(row)
            found += [_table(suite, rows) for rows in families.values() if len(rows) > 1]
        return found


def _family(row: Row) -> str:
    """Return the settings without those of the objective, and the first word of its name."""
    others = {key: value for key, value in row.settings.items() if not key.startswith(f"{OBJECTIVE}.")}
    return json.dumps([str(row.settings[NAME]).partition("_")[0], others], sort_keys=True, default=str)


def _table(suite: Suite, rows: Sequence[Row]) -> Table:
    settings = differing_settings([row.settings for row in rows])
    columns = [column for column in suite.columns if any(column in row.runs for row in rows)]
    n = suite.settings["samples a problem"]
    values: Mapping[str, list[Values | None]] = {
        column.title: [values_of(row, column, rates) for row in rows] for column in columns
    }
    cells: dict[str, Sequence[MarkedEstimate | None]] = {
        title: estimates(f"{title} avg@{n}", of_column) for title, of_column in values.items()
    }
    power = without_power(rows, cells)
    by_row = list(zip(*values.values(), strict=True))
    if len(columns) > 1:
        cells["mean"] = mean_estimates("mean", by_row)
    cells["less first row"] = [None, *(_less(by_row[0], row) for row in by_row[1:])]
    lines: list[tuple[Cell, ...]] = [
        (row.label, *(_shown(row.settings.get(name)) for name in settings), *(cells[title][place] for title in cells))
        for place, row in enumerate(rows)
    ]
    names = [name.removeprefix(f"{OBJECTIVE}.") for name in settings]
    footer = (
        f"avg@{n} in percent. These trainings have all other settings in common. -: not an option of that objective.",
        *power,
        *notes(suite, rows, columns),
    )
    title = str(rows[0].settings[NAME]).partition("_")[0]
    return Table(f"Ablations of {title}: {suite.title}", ("model", *names, *cells), tuple(lines), footer)


def _shown(value: object) -> Cell:
    return value if value is None or isinstance(value, (int, float, str)) else str(value)


def _less(first: Sequence[Values | None], row: Sequence[Values | None]) -> MarkedEstimate | None:
    """Return the mean over benchmarks less that of the first row, where both have all of them."""
    ours, theirs = ([values for values in side if values is not None] for side in (first, row))
    if not len(ours) == len(theirs) == len(first):
        return None
    found = difference_of_means(ours, theirs)
    if found is None:
        return None
    ends = (found.mean, max(-1.0, found.mean - found.margin()), min(1.0, found.mean + found.margin()))
    both = (*ours, *theirs)
    n_completions, n_ungraded = sum(v.n_completions for v in both), sum(v.n_ungraded for v in both)
    n_problems = sum(len(values.problems) for values in theirs)
    how = "paired, t over problems and over runs"
    return MarkedEstimate("less first row", *ends, n_problems, n_completions, n_ungraded, how)


TABLE = Ablations
