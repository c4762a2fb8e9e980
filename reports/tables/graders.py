"""Graders of a run: the rates by each grader, and the problems on which it differs from the run's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, Table, Verdict
from harness.reports.protocol_card import grader_of
from harness.reports.run_config import run_config
from harness.reports.run_facts import Cell, labelled, task_ids
from harness.runs.folder import RunReader

COLUMNS = ("run", "task", "grader", "right", "graded", "ungraded", "judged otherwise", "problems")
MOST_NAMED = 40
Sample = tuple[str, int]
Verdicts = Mapping[Sample, Verdict]


class Graders(TableBuilder[RunReader]):
    """One row for each grader of a run that has several, the run's own first.

    `right` is the mean over problems of the share of graded samples that are right. `judged otherwise` counts the
    samples on which this grader and the run's own disagree; `problems` names their problems.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        rows = [row for run, label in labelled(runs, "eval") for row in _rows(run, label)]
        notes = ("`harness audit RUN` shows the texts on which graders disagree.",)
        return [Table("Graders", COLUMNS, tuple(rows), notes)] if rows else []


def _rows(run: RunReader, label: str) -> list[tuple[Cell, ...]]:
    graders, rows = run.graders(), []
    for task in task_ids(run) if len(graders) > 1 else []:
        own = str(grader_of(run, task))
        found = {grader: _of_task(run, task, grader) for grader in sorted(graders, key=lambda g: (g != own, g))}
        found = {grader: verdicts for grader, verdicts in found.items() if verdicts}
        if len(found) > 1:
            rows += [(label, task, grader, *_cells(found[grader], found.get(own, {}))) for grader in found]
    return rows


def _of_task(run: RunReader, task: str, grader: str) -> Verdicts:
    """Return a grader's verdicts on the samples that the config asks for."""
    n = run_config(run).n
    verdicts = run.verdicts(grader).items()
    return {(p, index): v for (name, p, index), v in verdicts if name == task and (n is None or index < n)}


def _cells(verdicts: Verdicts, own: Verdicts) -> tuple[Cell, ...]:
    graded = {sample: v.outcome for sample, v in verdicts.items() if v.outcome != "ungraded"}
    others = {sample: v.outcome for sample, v in own.items() if v.outcome != "ungraded"}
    differing = [sample for sample in graded if sample in others and graded[sample] != others[sample]]
    problems = sorted({problem for problem, _ in differing})
    more = f" and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
    n_ungraded = len(verdicts) - len(graded)
    right = _right({sample: outcome == "correct" for sample, outcome in graded.items()}, n_ungraded)
    return right, len(graded), n_ungraded, len(differing), " ".join(problems[:MOST_NAMED]) + more


def _right(is_right: Mapping[Sample, bool], n_ungraded: int) -> Estimate | None:
    from harness.stats.intervals import mean_interval  # numpy

    by_problem: dict[str, list[bool]] = {}
    for (problem, _), right in sorted(is_right.items()):
        by_problem.setdefault(problem, []).append(right)
    if not by_problem:
        return None
    values = [sum(some) / len(some) for some in by_problem.values()]
    interval = mean_interval(values)
    mean = math.fsum(values) / len(values)
    return Estimate("right", mean, interval.low, interval.high, len(values), len(is_right), n_ungraded, interval.method)


TABLE = Graders
