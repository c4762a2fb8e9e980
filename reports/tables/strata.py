"""Strata: pass@k of a trained model and of its base, by how often the base solves a problem."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, Graded, Table
from harness.reports.paired_values import build_metric, graded_samples
from harness.reports.run_facts import Cell, Labelled, model_of, sampling_setting, unfinished
from harness.reports.with_base import with_base
from harness.runs.folder import RunReader

STRATA = (
    ("unsolved", 0.0),
    ("below 0.2", 0.2),
    ("0.2 to 0.5", 0.5),
    ("0.5 to 0.8", 0.8),
    ("0.8 and above", math.inf),
)
"""Names with the rate that a problem of the stratum is below; the first has the problems with no right sample."""
ALL = "all"
FAILURES = "format failures"
NOTE = (
    "Strata are by the rate of right samples among the base's even-numbered samples; every rate in the table is one of "
    "odd-numbered samples, of both models, since samples of one number share their random numbers. So the luck that "
    "put a problem into its stratum is in no rate. `unsolved`: none of the even-numbered samples is right, so such a "
    "problem may be solvable. Differences are the trained model less the base, with 95% intervals over problems."
)
FAILED = f"{FAILURES}: the share of samples that were truncated, or ended without an answer that the grader finds."


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of the two runs: counts of graded and right samples, and the shares of format failures."""

    family: Hashable
    rate: float
    """Of the base, in the samples that decide the stratum."""
    base: tuple[int, int]
    """Graded and right samples among the others."""
    trained: tuple[int, int]
    failures: tuple[float, float] | None
    """Of the base and of the trained model; None where the grader does not record answers."""


class Strata(TableBuilder[RunReader]):
    """One row for each stratum of problems, for each trained model of whose base there is an evaluation too.

    Both need two samples of each problem. The base is that of `harness eval --controls`, or an evaluation of the model
    that the train run began with.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        tables = (_table(task, base, trained) for task, base, trained in with_base(runs))
        return [table for table in tables if table is not None]


def _table(task: str, base: Labelled, trained: Labelled) -> Table | None:
    problems = _problems(task, base[0], trained[0])
    if not problems:
        return None
    widest = min(min(p.base[0], p.trained[0]) for p in problems)
    ks = sorted({1, widest})
    groups = [(name, [p for p in problems if _stratum(p.rate) == name]) for name, _ in STRATA]
    rows = [_row(name, group, ks) for name, group in (*groups, (ALL, problems)) if group]
    columns = tuple(name for name in rows[-1] if any(row[name] is not None for row in rows))
    temperature = sampling_setting(trained[0], task, "temperature")
    title = f"{model_of(trained[0])} and {model_of(base[0])} on {task} at temperature {temperature}, by strata"
    notes = (*unfinished([trained, base]), NOTE, *([FAILED] if f"{FAILURES}, base" in columns else []))
    return Table(title, columns, tuple(tuple(row[name] for name in columns) for row in rows), notes)


def _problems(task: str, base: RunReader, trained: RunReader) -> list[Problem]:
    """Return the problems that have graded samples in both halves of the base's and in the second of the trained's."""
    before, after = (graded_samples(run, [task])[task] for run in (base, trained))
    first, second, new = _half(before, 0), _half(before, 1), _half(after, 1)
    chosen, kept, since = _counts(first), _counts(second), _counts(new)
    failed = _failures(second), _failures(new)
    families = base.clusters().get(task, {})
    found = []
    for name in sorted(chosen.keys() & kept.keys() & since.keys()):
        n, right = chosen[name]
        family = ("of", families[name]) if name in families else name
        shares = (failed[0][name], failed[1][name]) if failed[0] and failed[1] else None
        found.append(Problem(family, right / n, kept[name], since[name], shares))
    return found


def _half(graded: Sequence[Graded[Any]], parity: int) -> list[Graded[Any]]:
    return [item for item in graded if item.completion.index % 2 == parity]


def _counts(graded: Sequence[Graded[Any]]) -> dict[str, tuple[int, int]]:
    """Return by problem the numbers of graded and of right samples."""
    counts: dict[str, tuple[int, int]] = {}
    for item in graded:
        if item.verdict.outcome != "ungraded":
            n, right = counts.get(item.problem.id, (0, 0))
            counts[item.problem.id] = n + 1, right + (item.verdict.outcome == "correct")
    return counts


def _failures(graded: Sequence[Graded[Any]]) -> Mapping[str, float]:
    """Return by problem the share of format failures; nothing where the grader does not record answers."""
    empty = build_metric("no_answer").per_problem(graded).get("no answer", {})
    cut = build_metric("truncated").per_problem(graded).get("truncated", {})
    return {name: share + cut[name] for name, share in empty.items()}


def _stratum(rate: float) -> str:
    return next(name for name, below in STRATA if rate < below or rate == below == 0)


# --- cells ------------------------------------------------------------------------------------------------------


def _row(name: str, problems: Sequence[Problem], ks: Sequence[int]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"stratum": name, "problems": len(problems)}
    for k in ks:
        row |= _pair(f"pass@{k}", _pass(problems, "base", k), _pass(problems, "trained", k), problems)
    shares = [p.failures for p in problems if p.failures is not None]
    if len(shares) == len(problems):
        return {**row, **_pair(FAILURES, [a for a, _ in shares], [b for _, b in shares], problems)}
    return {**row, **dict.fromkeys(f"{FAILURES}, {column}" for column in ("base", "trained", "difference"))}


def _pass(problems: Sequence[Problem], side: str, k: int) -> list[float]:
    from harness.stats.intervals import pass_at_k  # numpy

    counts = [getattr(problem, side) for problem in problems]
    found: list[float] = pass_at_k([n for n, _ in counts], [right for _, right in counts], k).tolist()
    return found


def _pair(name: str, base: Sequence[float], trained: Sequence[float], problems: Sequence[Problem]) -> dict[str, Cell]:
    """Return the means of both models and of their difference, with intervals over the problems."""
    from harness.stats.intervals import mean_interval  # numpy
    from harness.stats.paired_tests import difference_interval

    families = [problem.family for problem in problems]
    differences = [after - before for before, after in zip(base, trained, strict=True)]
    n_samples = sum(problem.base[0] + problem.trained[0] for problem in problems)
    cells: dict[str, Cell] = {}
    for column, values in (("base", base), ("trained", trained), ("difference", differences)):
        interval = (
            difference_interval(values, families) if column == "difference" else mean_interval(values, 1.0, families)
        )
        mean = math.fsum(values) / len(values)
        cells[f"{name}, {column}"] = Estimate(
            name, mean, interval.low, interval.high, len(values), n_samples, 0, interval.method
        )
    return cells


TABLE = Strata
