"""Flags: how many samples a person should look at, and why, with the first of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, Table
from harness.reports.flags import FLAGS, flagged, right_answers
from harness.reports.page.problems import Statements
from harness.reports.run_facts import Cell, Labelled, labelled, task_ids
from harness.runs.folder import RunReader

COLUMNS = ("run", "task", "flag", "samples", "share", "problems", "first")
FEW = 3
NOTES = (
    "A flag is a hint and no verdict: look at the samples (the page of the report opens them, `harness show` prints "
    "them). share: of the samples of a problem, averaged over problems.",
    "right answer not extracted: a wrong sample whose text has an answer that was right elsewhere in these runs. "
    "empty reasoning: nothing but an answer. answer spray: four different final answers or more. prompt echoed: a part "
    "of the problem, where its text is on this machine, or another turn.",
)


class Flags(TableBuilder[RunReader]):
    """One row for each run, task and flag that some sample has."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        evaluations = labelled(runs, "eval")
        right = right_answers([run for run, _ in evaluations])
        statements = _statements(evaluations)
        rows = tuple(row for run, label in evaluations for row in _rows(run, label, right, statements))
        return [Table("Flags", COLUMNS, rows, NOTES)] if rows else []


def _statements(evaluations: Sequence[Labelled]) -> dict[str, dict[str, str]]:
    by_task: dict[str, list[RunReader]] = {}
    for run, _ in evaluations:
        for task in task_ids(run):
            by_task.setdefault(task, []).append(run)
    found = {task: Statements(task, runs[:1]).texts for task, runs in by_task.items()}
    return {task: {problem: text for problem, (text, _) in texts.items()} for task, texts in found.items()}


def _rows(
    run: RunReader,
    label: str,
    right: Mapping[tuple[str, str], frozenset[str]],
    statements: Mapping[str, Mapping[str, str]],
) -> list[tuple[Cell, ...]]:
    counts: dict[str, dict[str, int]] = {}
    with_flag: dict[tuple[str, str], dict[str, list[int]]] = {}
    for (task, problem, index), names in flagged(run, right, statements):
        of_task = counts.setdefault(task, {})
        of_task[problem] = of_task.get(problem, 0) + 1
        for name in names:
            with_flag.setdefault((task, name), {}).setdefault(problem, []).append(index)
    return [
        (label, task, name, *_cells(name, counts[task], with_flag[task, name]))
        for task in counts
        for name in FLAGS
        if (task, name) in with_flag
    ]


def _cells(name: str, counts: Mapping[str, int], found: Mapping[str, Sequence[int]]) -> tuple[Cell, ...]:
    from harness.stats.intervals import mean_interval  # numpy

    shares = [len(found.get(problem, ())) / n for problem, n in sorted(counts.items())]
    interval = mean_interval(shares)
    n_samples, mean = sum(map(len, found.values())), sum(shares) / len(shares)
    ends = (interval.low, interval.high)
    share = Estimate(name, mean, *ends, len(shares), sum(counts.values()), 0, interval.method)
    first = [f"{problem}[{index}]" for problem in sorted(found) for index in sorted(found[problem])[:1]]
    return n_samples, share, len(found), ", ".join(first[:FEW])


TABLE = Flags
