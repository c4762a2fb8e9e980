"""Code: avg@n and pass@n of LiveCodeBench, CodeForces rating and percentile, avg@n of HumanEval+ and other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import NormalDist

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, MarkedEstimate, Table
from harness.reports.footnotes import is_code, notes, without_power
from harness.reports.ranking import estimates, ranked_by
from harness.reports.run_facts import Cell
from harness.reports.samples import pass_rates, rates
from harness.reports.suites import Column, Row, Suite, suites, values_of
from harness.runs.folder import RunReader

RATING_FAMILIES = ("rating", "percentile")
WITH_PASS = ("livecodebench",)
NOTE = (
    "Shares in percent. rating and percentile are those of the metric codeforces_rating (`--metrics codeforces_rating` "
    "with standings); rows are compared on them by their intervals, as if on different problems, which finds less than "
    "a paired test."
)


class Code(TableBuilder[RunReader]):
    """For each protocol one row per model or method. Ratings stand only where the runs have them."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        tables = []
        for suite in suites(runs):
            columns = [column for column in suite.columns if is_code(suite.cards, column)]
            rows = [row for row in suite.rows if any(column in row.runs for column in columns)]
            if rows:
                tables.append(_table(suite, rows, columns))
        return tables


def _table(suite: Suite, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    n = suite.settings["samples a problem"]
    cells: dict[str, Sequence[MarkedEstimate | None]] = {}
    for column in columns:
        task = column.title
        if isinstance(n, int) and n > 1 and column.task in WITH_PASS:
            cells[f"{task} avg@{n}"] = estimates(f"{task} avg@{n}", [values_of(row, column, rates) for row in rows])
            passed = [values_of(row, column, partial(pass_rates, k=n)) for row in rows]
            cells[f"{task} pass@{n}"] = estimates(f"{task} pass@{n}", passed)
            continue
        ratings = _ratings(rows, column)
        cells |= ratings
        if not ratings or column.task != "codeforces":
            cells[f"{task} avg@{n}"] = estimates(f"{task} avg@{n}", [values_of(row, column, rates) for row in rows])
    lines: list[tuple[Cell, ...]] = [
        (row.label, *(cells[title][place] for title in cells)) for place, row in enumerate(rows)
    ]
    shares = {title: column for title, column in cells.items() if any(cell and cell.in_percent for cell in column)}
    footer = (NOTE, *without_power(rows, shares), *notes(suite, rows, columns))
    return Table(f"Code: {suite.title}", ("model", *cells), tuple(lines), footer)


def _ratings(rows: Sequence[Row], column: Column) -> dict[str, Sequence[MarkedEstimate | None]]:
    """Return a column for each rating and percentile that the runs computed."""
    found: list[Mapping[str, list[Estimate]]] = []
    for row in rows:
        by_name: dict[str, list[Estimate]] = {}
        for run in row.runs.get(column, ()):
            for estimate in run.estimates().get(column.task, []):
                if estimate.name.partition(" ")[0] in RATING_FAMILIES:
                    by_name.setdefault(estimate.name, []).append(estimate)
        found.append(by_name)
    names = dict.fromkeys(name for by_name in found for name in by_name)
    return {
        f"{column.title} {name}": ranked_by(
            [over_runs(f"{column.title} {name}", by_name.get(name, [])) for by_name in found], _p_value
        )
        for name in names
    }


def over_runs(name: str, of_runs: Sequence[Estimate]) -> MarkedEstimate | None:
    """Return the mean over runs of an estimate. Its margin is the mean one, and the t margin over several runs."""
    from harness.stats.distributions import t_quantile
    from harness.stats.intervals import LEVEL

    if not of_runs:
        return None
    n = len(of_runs)
    mean = math.fsum(e.value for e in of_runs) / n
    below, above = (math.fsum(abs(getattr(e, end) - e.value) for e in of_runs) / n for end in ("low", "high"))
    method, spread = of_runs[0].method, 0.0
    if n > 1:
        variance = math.fsum((e.value - mean) ** 2 for e in of_runs) / (n - 1)
        spread = t_quantile(LEVEL, n - 1) * math.sqrt(variance / n)
        method = f"{method}; and t over {n} runs"
    counts = (of_runs[0].n_problems, sum(e.n_completions for e in of_runs), sum(e.n_ungraded for e in of_runs))
    ends = (mean - math.hypot(below, spread), mean + math.hypot(above, spread))
    return MarkedEstimate(name, mean, *ends, *counts, method, in_percent=False)


def _p_value(one: MarkedEstimate, other: MarkedEstimate) -> float:
    """Return the normal p-value of no difference, from the half widths of the two intervals that face each other."""
    low, high = sorted((one, other), key=lambda e: e.value)
    z = NormalDist().inv_cdf(0.975)
    error = math.hypot(low.high - low.value, high.value - high.low) / z
    return 2 * (1 - NormalDist().cdf((high.value - low.value) / error)) if error > 0 else float(low.value == high.value)


TABLE = Code
