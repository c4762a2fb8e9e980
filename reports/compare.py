"""`harness compare`: two evaluations, problem by problem: what differs, and whether it could be chance.

Only the run folders are read. The value of a problem is the share of right ones among its graded samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import RunFolderError, UsageError
from harness.core.store import RunView
from harness.core.types import Estimate, Table
from harness.reports.cards import card, grader_of
from harness.reports.runs import Cell, labels, setting, task_ids, unfinished

TOLD = (
    "limit",
    "samples a problem",
    "seed",
    "code",
    "python",
    "torch",
    "transformers",
    "vllm",
    "math-verify",
)
"""May differ between runs that compare, and is told: it changes how much noise there is, or should change nothing."""
IGNORED = ("task", "licence", "paper", "problems graded", "model", "model fingerprint", "model settings")
"""Words, results, and what a comparison is of."""

COLUMNS = (
    "task",
    "first",
    "second",
    "difference",
    "problems",
    "p",
    "p (Holm)",
    "McNemar p",
    "detectable",
)
ALL = "all problems"


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one problem in one run."""

    n_right: int
    n_graded: int
    n_ungraded: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """The problems of a task that both runs have graded samples of, and how many only one has."""

    task: str
    first: Sequence[Counts]
    second: Sequence[Counts]
    n_unpaired: int


def compare(first: Path, second: Path, *, anyway: bool = False) -> Table:
    """The second run less the first, per task and over all. Runs under other protocols are refused unless `anyway`."""
    runs = [RunView.read(folder) for folder in (first, second)]
    for run in runs:
        if run.record.kind != "eval":
            raise RunFolderError(f"{run.folder} is a train run; name one of its evaluations, such as evals/...")
    tasks = [task for task in task_ids(runs[0]) if task in task_ids(runs[1])]
    if not tasks:
        raise UsageError(f"{first} and {second} have no task in common, so there is nothing to compare")
    deciding, told = _card_differences(runs, tasks)
    if deciding and not anyway:
        raise UsageError(
            f"{first} and {second} were not evaluated alike ({'; '.join(deciding)}); evaluate one of them again as "
            "the other was, or say --anyway"
        )
    return _table(runs, [_pairs(runs, task) for task in tasks], deciding, told)


# --- protocols --------------------------------------------------------------------------------------------------


def _card_differences(runs: Sequence[RunView], tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """What makes the numbers of another kind, and what is only to be known: `task setting: one / other`."""
    deciding: dict[str, None] = {}
    told: dict[str, None] = {}
    for task in tasks:
        ours, theirs = (card(run, task) for run in runs)
        for name in (name for name in ours if name not in IGNORED and ours[name] != theirs[name]):
            if name in TOLD:
                told[f"{name}: {_said(ours[name])} / {_said(theirs[name])}"] = None
            else:
                deciding[f"{task} {name}: {_said(ours[name])} / {_said(theirs[name])}"] = None
    return list(deciding), list(told)


def _said(cell: Cell) -> str:
    return "not on record" if cell is None else str(cell)


# --- pairs ------------------------------------------------------------------------------------------------------


def _pairs(runs: Sequence[RunView], task: str) -> Pairs:
    ours, theirs = (_counts(run, task) for run in runs)
    shared = sorted(p for p in ours.keys() & theirs.keys() if ours[p].n_graded and theirs[p].n_graded)
    n_unpaired = len(ours.keys() | theirs.keys()) - len(shared)
    return Pairs(task, [ours[p] for p in shared], [theirs[p] for p in shared], n_unpaired)


def _counts(run: RunView, task: str) -> Mapping[str, Counts]:
    """By problem, under the grader on record, of the samples that the config asks for."""
    grader, n = grader_of(run, task), setting(run.config(), "n")
    outcomes: dict[str, list[str]] = {}
    for (name, problem, index), verdict in run.verdicts(str(grader)).items():
        if name == task and (n is None or index < n):
            outcomes.setdefault(problem, []).append(verdict.outcome)
    return {
        problem: Counts(found.count("correct"), len(found) - found.count("ungraded"), found.count("ungraded"))
        for problem, found in outcomes.items()
    }


def _rates(counts: Sequence[Counts]) -> list[float]:
    return [problem.n_right / problem.n_graded for problem in counts]


# --- the table --------------------------------------------------------------------------------------------------


def _table(runs: Sequence[RunView], tasks: Sequence[Pairs], deciding: Sequence[str], told: Sequence[str]) -> Table:
    from harness.core.pairs import holm  # numpy

    paired = [pairs for pairs in tasks if pairs.first]
    if not paired:
        raise UsageError("no problem has graded samples in both runs, so there is nothing to compare")
    rows = [_row(pairs) for pairs in paired]
    adjusted = holm([float(str(row["p"])) for row in rows])
    rows = [{**row, "p (Holm)": p} for row, p in zip(rows, adjusted, strict=True)]
    if len(paired) > 1:
        first, second = ([c for pairs in paired for c in getattr(pairs, side)] for side in ("first", "second"))
        rows.append(_row(Pairs(ALL, first, second, 0)))
    names = labels(runs)
    notes = [
        *(f"NOT ALIKE: {line}" for line in deciding),
        *unfinished(list(zip(runs, names, strict=True))),
        f"first: {names[0]}; second: {names[1]}. The difference is the second less the first, with a 95% interval.",
        "p: sign-flip test of the paired differences, and after Holm over the tasks. McNemar: where both runs have one "
        "sample of each problem. detectable: the smallest true difference found with 80% power at the 5% level.",
        *(f"differs: {line}" for line in told),
        *_left_out(tasks),
    ]
    cells = tuple(tuple(row.get(column) for column in COLUMNS) for row in rows)
    return Table("Comparison", COLUMNS, cells, tuple(notes))


def _row(pairs: Pairs) -> dict[str, Cell]:
    from harness.core.pairs import detectable, difference_interval, sign_flip, standard_error

    first, second = _rates(pairs.first), _rates(pairs.second)
    differences = [b - a for a, b in zip(first, second, strict=True)]
    interval, test = difference_interval(differences), sign_flip(differences)
    error = standard_error(differences) if len(differences) > 1 else 0.0
    counts = [*pairs.first, *pairs.second]
    n_graded, n_ungraded = sum(c.n_graded for c in counts), sum(c.n_ungraded for c in counts)
    mean = math.fsum(differences) / len(differences)
    method = f"{interval.method}; p by {test.method}"
    difference = Estimate(
        "difference", mean, interval.low, interval.high, len(differences), n_graded, n_ungraded, method
    )
    return {
        "task": pairs.task,
        "first": math.fsum(first) / len(first),
        "second": math.fsum(second) / len(second),
        "difference": difference,
        "problems": len(differences),
        "p": test.p,
        "McNemar p": _mcnemar(pairs),
        "detectable": detectable(error) if error > 0 else None,
    }


def _mcnemar(pairs: Pairs) -> float | None:
    from harness.core.pairs import mcnemar

    if any(counts.n_graded != 1 for counts in (*pairs.first, *pairs.second)):
        return None
    changes = [b.n_right - a.n_right for a, b in zip(pairs.first, pairs.second, strict=True)]
    return mcnemar(changes.count(-1), changes.count(1))


def _left_out(tasks: Sequence[Pairs]) -> list[str]:
    return [
        f"LEFT OUT: {pairs.n_unpaired} problems of {pairs.task} that only one run has graded samples of"
        for pairs in tasks
        if pairs.n_unpaired
    ]
