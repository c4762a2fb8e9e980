"""Printed numbers of a paper with ours under the same protocol, and which differences its samples can resolve.

The numbers are in `reports/published/`; nothing but them is needed.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from harness.core.errors import UnknownNameError
from harness.core.types import Estimate, Table
from harness.reports.run_facts import Cell
from harness.runs.folder import RunReader

FOLDER = Path(__file__).parent / "published"
OURS = "FlowRL"
MEAN = "mean"
Z = NormalDist().inv_cdf(0.975)
PROTOCOL = {"n": "samples a problem", "temperature": "temperature", "top_p": "top p", "max_tokens": "max tokens"}
"""Key of a printed protocol -> setting on the protocol card."""
SHARES = ("avg", "pass")
UNITS = ("rating", "percentile")
HALF_A_DIGIT = 0.0101
"""Percent by which a printed value may be off: some are cut and not rounded."""


@dataclass(frozen=True, slots=True)
class PrintedTable:
    id: str
    reference: str
    title: str
    model: str
    protocol: Mapping[str, Any]
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float]]

    @property
    def n(self) -> int:
        return int(self.protocol["n"])

    def value(self, row: str, column: str) -> float:
        return self.rows[row][list(self.columns).index(column)]

    def benchmarks(self) -> list[str]:
        """Return the columns that are a mean over samples."""
        return [column for column in self.columns if column != MEAN and column.rpartition(" ")[2] not in UNITS]


@dataclass(frozen=True, slots=True)
class Claims:
    paper: str
    problems: Mapping[str, int]
    tables: Sequence[PrintedTable]
    methods: Mapping[str, Mapping[str, Any]]
    others: Sequence[Mapping[str, Any]]
    populations: Mapping[str, Any]


def known_claims() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_claims(name: str) -> Claims:
    """Return the printed numbers of a paper."""
    if name not in known_claims():
        raise UnknownNameError("paper", name, known_claims())
    found = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    tables = [PrintedTable(**table) for table in found["tables"]]
    return Claims(found["paper"], found["problems"], tables, found["methods"], found["others"], found["populations"])


def claims_tables(name: str, runs: Sequence[RunReader] = ()) -> dict[str, list[Table]]:
    """Return the tables of a paper's claims by id: as printed with ours, and what follows from the numbers alone."""
    claims = read_claims(name)
    return {
        **{f"claims-{table.id}": [_as_printed(claims, table, runs)] for table in claims.tables},
        "claims-differences": [_differences(claims)],
        "claims-means": [_means(claims)],
        "claims-percentiles": [_percentiles(claims)],
        "claims-others": [_others(claims)],
    }


# --- printed, and ours --------------------------------------------------------------------------------------------


def _as_printed(claims: Claims, table: PrintedTable, runs: Sequence[RunReader]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    sources: list[str] = []
    for method, values in table.rows.items():
        rows.append((method, "printed", *(_digits(c, v) for c, v in zip(table.columns, values, strict=True))))
        found = _our_cells(claims, table, method, runs) if runs else None
        if found is not None:
            cells, source = found
            rows.append((method, "ours", *(cells.get(column) for column in table.columns)))
            sources.append(f"{method}: {source}.")
    protocol = ", ".join(f"{key} {value}" for key, value in table.protocol.items())
    notes = [
        f"{claims.paper}, {table.reference}. Protocol: {table.model}, {protocol}. In percent, without intervals and "
        "from one training run each, as printed.",
        *(sources if sources else [f"No run of ours has this protocol: {protocol} on {table.model}."]),
    ]
    return Table(f"{table.reference}: {table.title}", ("method", "source", *table.columns), tuple(rows), tuple(notes))


def _our_cells(
    claims: Claims, table: PrintedTable, method: str, runs: Sequence[RunReader]
) -> tuple[dict[str, Estimate], str] | None:
    """Return our cells of a printed row and their runs; None where there is none with its protocol."""
    from harness.reports.suites import suites

    wanted = claims.methods.get(method)
    for suite in suites(runs) if wanted is not None else []:
        if not all(_same(suite.settings.get(PROTOCOL[key]), value) for key, value in table.protocol.items()):
            continue
        for row in suite.rows:
            if wanted is not None and _is_method(row.settings, table.model, wanted):
                cells = _cells_of(table, row)
                if cells:
                    cards = ((column.task, suite.cards[column]) for column in row.runs)
                    own = "; ".join(f"{t} by {c.get('grader')}, prompt {c.get('prompt form')}" for t, c in cards)
                    ids = ", ".join(run.record.id for run in row.all_runs)
                    return cells, f"ours are {ids} ({own}; top k {suite.settings['top k']})"
    return None


def _digits(column: str, value: float) -> str:
    """Return a value with the digits that are printed."""
    return f"{value:.1f}" if column.endswith("percentile") else f"{value:.2f}"


def _same(ours: object, printed: object) -> bool:
    return isinstance(ours, (int, float)) and isinstance(printed, (int, float)) and math.isclose(ours, printed)


def _is_method(settings: Mapping[str, Any], model: str, wanted: Mapping[str, Any]) -> bool:
    """Return whether a row is of this base model, trained with these settings; without any, not trained."""
    path = str(settings.get("model.path", settings.get("model", "")))
    if Path(path).name.lower() != model.lower():
        return False
    if not wanted:
        return "objective.id" not in settings
    return all(settings.get(key) == value for key, value in wanted.items())


def _cells_of(table: PrintedTable, row: Any) -> dict[str, Estimate]:
    from functools import partial

    from harness.reports.ranking import mean_estimates
    from harness.reports.samples import pass_rates, rates
    from harness.reports.suites import Column, values_of

    values = {name: values_of(row, Column(name), rates) for name in table.benchmarks() if " " not in name}
    values |= {
        name: values_of(row, Column(name.split()[0]), partial(pass_rates, k=table.n))
        for name in table.benchmarks()
        if " pass@" in name
    }
    cells: dict[str, Estimate] = {name: v.estimate(name) for name, v in values.items() if v is not None}
    if MEAN in table.columns and cells:
        (mean,) = mean_estimates(MEAN, [list(values.values())])
        cells |= {MEAN: mean} if mean is not None else {}
    for run in row.runs.get(Column("codeforces"), ()):
        for estimate in run.estimates().get("codeforces", []):
            unit = estimate.name.partition(" ")[0]
            if unit in UNITS and "FlowRL" in estimate.name:
                cells[f"codeforces {unit}"] = estimate
    return cells


# --- what the numbers alone say -----------------------------------------------------------------------------------


DIFFERENCES = (
    *("table", "benchmark", "compared", "with", "difference", "right samples", "problems", "samples"),
    *("margin, samples", "margin, problems", "resolved"),
)
RESOLVED = {
    "no": "no: within the margin of independent answers",
    "perhaps": "not shown: between the two margins",
    "yes": "yes, for these problems and these runs",
}


def _differences(claims: Claims) -> Table:
    rows = [row for table in claims.tables for row in _table_differences(claims, table)]
    counts = [sum(row[-1] == text for row in rows) for text in RESOLVED.values()]
    notes = (
        f"Of {len(rows)} differences the samples resolve {counts[2]}; {counts[1]} lie between the two margins, and "
        f"{counts[0]} are within the smaller one.",
        "Differences in points, of the paper's method less each other row. margin, samples: 1.96 binomial standard "
        "errors if all answers were independent. margin, problems: the same if the answers to one problem always "
        "agree. A comparison over problems without pairing lies between the two. Pairing by problem may narrow it, "
        "which the printed numbers do not allow.",
        "Each row is one training run, so a resolved difference is one of these two runs: no margin has seeds in it.",
        "right samples: the printed share as a count, of the first and of the second row.",
    )
    return Table("Claims: which differences the samples can resolve", DIFFERENCES, tuple(rows), notes)


def _table_differences(claims: Claims, table: PrintedTable) -> Iterator[tuple[Cell, ...]]:
    first = OURS if OURS in table.rows else "beta 15"
    for other, column in itertools.product(table.rows, table.benchmarks()):
        if other == first:
            continue
        task, is_pass = column.split()[0], "pass@" in column
        n_problems, n_samples = claims.problems[task], 1 if is_pass else table.n
        ours, theirs = (table.value(row, column) / 100 for row in (first, other))
        of_samples, of_problems = (Z * _error(ours, theirs, n) for n in (n_problems * n_samples, n_problems))
        gap = abs(ours - theirs)
        verdict = "no" if gap <= of_samples else "perhaps" if gap <= of_problems else "yes"
        counts = " / ".join(str(_count(share, n_problems * n_samples)) for share in (ours, theirs))
        margins = (round(100 * of_samples, 2), round(100 * of_problems, 2))
        yield (
            *(table.id, column, first, other, round(100 * (ours - theirs), 2), counts),
            *(n_problems, n_problems * n_samples, *margins, RESOLVED[verdict]),
        )


def _error(one: float, other: float, n: int) -> float:
    """Return the binomial standard error of the difference of two shares of n independent answers each."""
    return math.sqrt((one * (1 - one) + other * (1 - other)) / n)


def _count(share: float, n: int) -> int:
    return round(share * n)


def _means(claims: Claims) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for table in claims.tables:
        if MEAN not in table.columns:
            continue
        for method in table.rows:
            cells = [table.value(method, column) for column in table.benchmarks()]
            found, printed = math.fsum(cells) / len(cells), table.value(method, MEAN)
            agrees = "yes" if abs(found - printed) <= HALF_A_DIGIT else f"no, by {found - printed:+.2f}"
            rows.append((table.id, method, printed, round(found, 3), agrees))
    note = "The mean of the printed cells of a row, each benchmark of equal weight."
    return Table("Claims: means", ("table", "method", "printed", "recomputed", "agrees"), tuple(rows), (note,))


def _percentiles(claims: Claims) -> Table:
    names, users = claims.populations["names"], claims.populations["users"]
    rows: list[tuple[Cell, ...]] = []
    for table in claims.tables:
        if "codeforces rating" not in table.columns:
            continue
        for method in table.rows:
            rating = table.value(method, "codeforces rating")
            below = claims.populations["below"][f"{rating:.2f}"]
            shares = [round(100 * n / of, 1) for n, of in zip(below, users, strict=True)]
            printed = table.value(method, "codeforces percentile")
            rows.append((method, f"{rating:.2f}", printed, *shares, "yes" if shares[0] == printed else "no"))
    sizes = ", ".join(f"{n:,} in {name}" for n, name in zip(users, names, strict=True))
    notes = (
        f"Share of users with a lower rating: {sizes}. The same rating is another percentile in another population.",
        "The rating itself can't be recomputed from the printed numbers. The authors' script runs the example tests of "
        "the statements only (most problems have one) and submits up to 16 answers to a problem, so it is higher than "
        "a rating by hidden tests.",
    )
    columns = ("method", "rating", "printed percentile", *(f"in {name}" for name in names), "agrees")
    return Table("Claims: CodeForces percentiles", columns, tuple(rows), notes)


def _others(claims: Claims) -> Table:
    rows: list[tuple[Cell, ...]] = []
    by_id = {table.id: table for table in claims.tables}
    for one in claims.others:
        found = None
        if "minuend" in one:
            (a, row), (b, other) = one["minuend"], one["subtrahend"]
            found = round(by_id[a].value(row, MEAN) - by_id[b].value(other, MEAN), 2)
        rows.append((one["reference"], one["claim"], one["printed"], found, one["protocol"]))
    columns = ("reference", "claim", "printed", "recomputed", "protocol")
    note = "recomputed: from the printed tables; empty where they do not give it."
    return Table("Claims: other printed numbers", columns, tuple(rows), (note,))
