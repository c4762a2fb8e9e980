"""Compare two evaluations, or two groups of them, problem by problem, with intervals and tests of the differences.

Only the run folders are read.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import RunFolderError, UsageError
from harness.core.types import Estimate, Table
from harness.reports.paired_values import RATE, Paired, measure, pairs, pooled
from harness.reports.power import NO_POWER, no_power
from harness.reports.protocol_card import card
from harness.reports.run_facts import Cell, labels, task_ids, unfinished
from harness.runs.folder import RunReader

NOTED = (
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
"""Settings that may differ between compared runs and are noted: they affect only noise, or should have no effect."""
IGNORED = (
    *("task", "licence", "paper", "problems graded", "model", "model fingerprint", "model settings"),
    *("preset", "deviations", "control", "imported from", "not in those files", "data released", "model released"),
)
"""Descriptions, results, the subject of the comparison, and names for settings that are compared themselves."""

COLUMNS = (
    "task",
    "metric",
    "first",
    "second",
    "difference",
    "problems",
    "p",
    "p (Holm)",
    "McNemar p",
    "p (runs)",
    "p (these runs only)",
    "detectable",
)
ALL = "all problems"
FEWEST_RUNS = 3
"""With fewer runs a side their spread is hardly known, and the t quantile is 4.3 or more."""


def compare(
    first: Sequence[Path],
    second: Sequence[Path],
    *,
    metric: str | None = None,
    grader: str | None = None,
    anyway: bool = False,
    detect: float | None = None,
) -> Table:
    """Tabulate the second runs less the first, per task and over all, by each metric that all have, or by one.

    Runs of one side differ in their seeds. Runs under different protocols are refused unless `anyway`. With a `grader`
    its verdicts are used instead of those of the runs' own graders. Rows that cannot find a difference of `detect` are
    noted, as are sets that are nearly all solved or unsolved.
    """
    found = comparable(first, second, is_regraded=grader is not None, anyway=anyway)
    ours, theirs = ([measure(run, found.tasks, grader, metric) for run in side] for side in found.sides)
    paired = [pairs(task, [run[task] for run in ours], [run[task] for run in theirs]) for task in found.tasks]
    notes = [*found.alarms, *_notes(found.sides), *found.notes]
    return _table([one for group in paired for one in group], notes, detect)


def check_detect(difference: float | None) -> float | None:
    """Return the difference to detect, or refuse one that is not between 0 and 1."""
    if difference is not None and not 0 < difference < 1:
        raise UsageError(f"--detect is a difference between 0 and 1, such as 0.02, not {difference:g}")
    return difference


@dataclass(frozen=True, slots=True)
class Comparable:
    """Runs of two sides that may be compared."""

    sides: tuple[list[RunReader], list[RunReader]]
    tasks: Sequence[str]
    """Those that all runs have."""
    alarms: Sequence[str]
    """Lines on settings that make the comparison void, and were let through."""
    notes: Sequence[str]
    """Lines on other settings that differ."""


def comparable(first: Sequence[Path], second: Sequence[Path], *, is_regraded: bool, anyway: bool) -> Comparable:
    """Read the runs; refuse those that are not evaluations of common tasks under one protocol, unless `anyway`."""
    sides = ([RunReader.read(folder) for folder in first], [RunReader.read(folder) for folder in second])
    runs = [*sides[0], *sides[1]]
    _refuse(runs)
    tasks = [task for task in task_ids(runs[0]) if all(task in task_ids(run) for run in runs)]
    if not tasks:
        raise UsageError(f"{_named(runs)} have no task in common, so there is nothing to compare")
    deciding, noted = _card_differences(runs, tasks, is_regraded=is_regraded)
    if deciding and not anyway:
        raise UsageError(
            f"{_named(runs)} were not evaluated alike ({'; '.join(deciding)}); evaluate one of them again as "
            "the other was, or pass --anyway"
        )
    return Comparable(sides, tasks, [f"NOT ALIKE: {line}" for line in deciding], [f"differs: {line}" for line in noted])


def _refuse(runs: Sequence[RunReader]) -> None:
    for run in runs:
        if run.record.kind != "eval":
            raise RunFolderError(f"{run.folder} is a train run; name one of its evaluations, such as evals/...")
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise UsageError("a run is named twice; a comparison needs different runs")


def _named(runs: Sequence[RunReader]) -> str:
    *others, last = (str(run.folder) for run in runs)
    return f"{', '.join(others)} and {last}"


# --- protocols --------------------------------------------------------------------------------------------------


def _card_differences(
    runs: Sequence[RunReader], tasks: Sequence[str], *, is_regraded: bool
) -> tuple[list[str], list[str]]:
    """Return the protocol settings that make runs incomparable, and those only to be noted, as `name: one / other`."""
    deciding: dict[str, None] = {}
    noted: dict[str, None] = {}
    ignored = (*IGNORED, "grader") if is_regraded else IGNORED
    for task in tasks:
        cards = [card(run, task) for run in runs]
        for name in (name for name in cards[0] if name not in ignored):
            values = list(dict.fromkeys(_text(card[name]) for card in cards))
            if len(values) > 1:
                line = f"{name}: {' / '.join(values)}"
                if name in NOTED:
                    noted[line] = None
                else:
                    deciding[f"{task} {line}"] = None
    return list(deciding), list(noted)


def _text(cell: Cell) -> str:
    return "not recorded" if cell is None else str(cell)


# --- the table --------------------------------------------------------------------------------------------------


def _table(found: Sequence[Paired], notes: Sequence[str], detect: float | None) -> Table:
    from harness.stats.paired_tests import holm  # numpy

    if not found:
        raise UsageError("no problem has graded samples in all runs, so there is nothing to compare")
    rows = [compared(paired) for paired in found]
    adjusted = holm([float(str(row["p"])) for row in rows])
    rows = [{**row, "p (Holm)": p} for row, p in zip(rows, adjusted, strict=True)]
    rows += [compared(paired) for paired in _over_all(found)]
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    cells = tuple(tuple(row.get(column) for column in columns) for row in rows)
    return Table("Comparison", tuple(columns), cells, (*notes, *_without_power(rows, detect), *_left_out(found)))


def _without_power(rows: Sequence[dict[str, Cell]], detect: float | None) -> list[str]:
    """Return a line for each row whose set is at its ceiling or floor, or that cannot find the difference asked for."""
    notes = []
    for row in rows:
        name, found = f"{row['metric']} on {row['task']}", row["detectable"]
        reasons = [no_power(float(str(row[side]))) for side in ("first", "second")] if row["metric"] == RATE else [""]
        if all(reasons):
            notes.append(f"{NO_POWER}: {name}: both sides are {reasons[0]}")
        elif detect is not None and (found is None or float(str(found)) > detect):
            smallest = f"{float(str(found)):.3f}" if found is not None else "not known, since no problem differs"
            notes.append(f"{NO_POWER}: {name}: the smallest detectable difference is {smallest}, above {detect:g}")
    return notes


def _over_all(found: Sequence[Paired]) -> list[Paired]:
    """Pool each metric that all tasks have over all problems, if there are several tasks."""
    n_tasks = len({paired.task for paired in found})
    groups = [[p for p in found if p.metric == name] for name in dict.fromkeys(p.metric for p in found)]
    return [pooled(ALL, group) for group in groups if 1 < len(group) == n_tasks]


def compared(paired: Paired) -> dict[str, Cell]:
    """Return a row of the comparison by column: the second less the first, with its interval and tests."""
    from harness.stats.paired_tests import crossed_interval, detectable, mcnemar

    first, second = _means(paired.first), _means(paired.second)
    differences = [b - a for a, b in zip(first, second, strict=True)]
    # Intervals are for values up to 1; tokens and numbers of solutions exceed that.
    largest = max(1.0, *(value for run in (*paired.first, *paired.second) for value in run))
    sides = [[[value / largest for value in run] for run in side] for side in (paired.first, paired.second)]
    interval = crossed_interval(sides[0], sides[1], paired.clusters)
    tests, how = _tests(paired, differences, sides)
    error = largest * _error(differences, sides, largest, paired.clusters)
    difference = Estimate(
        name="difference",
        value=math.fsum(differences) / len(differences),
        low=interval.low * largest,
        high=interval.high * largest,
        n_problems=len(differences),
        n_completions=paired.n_graded,
        n_ungraded=paired.n_ungraded,
        method="; ".join([interval.method, *how]),
    )
    return {
        "task": paired.task,
        "metric": paired.metric,
        "first": math.fsum(first) / len(first),
        "second": math.fsum(second) / len(second),
        "difference": difference,
        "problems": len(differences),
        **tests,
        "McNemar p": mcnemar(differences.count(-1), differences.count(1)) if paired.are_single else None,
        "detectable": detectable(error) if error > 0 else None,
    }


Sides = Sequence[Sequence[Sequence[float]]]


def _tests(paired: Paired, differences: Sequence[float], sides: Sides) -> tuple[dict[str, Cell], list[str]]:
    """Return the p-values by column, and their methods. With several runs a side, `p` counts runs and problems."""
    from harness.stats.intervals import by_cluster
    from harness.stats.paired_tests import crossed_test, regrouped, sign_flip

    flipped = sign_flip(differences if paired.clusters is None else by_cluster(differences, paired.clusters)[0][0])
    if len(paired.first) + len(paired.second) == 2:
        return {"p": flipped.p}, [f"p by {flipped.method}"]
    crossed = crossed_test(sides[0], sides[1], paired.clusters)
    by_run = regrouped([math.fsum(run) for run in paired.first], [math.fsum(run) for run in paired.second])
    return (
        {"p": crossed.p if crossed is not None else 1.0, "p (runs)": by_run.p, "p (these runs only)": flipped.p},
        [
            f"p by {crossed.method if crossed is not None else 'one problem, which says nothing about others'}",
            f"p (runs) by {by_run.method}",
            f"p (these runs only) by {flipped.method}",
        ],
    )


def _error(differences: Sequence[float], sides: Sides, largest: float, clusters: Sequence[Hashable] | None) -> float:
    """Return the standard error of the difference over problems, and over runs where there are several."""
    from harness.stats.paired_tests import seed_error, standard_error

    of_problems = standard_error(differences, clusters) / largest if len(differences) > 1 else 0.0
    seeds = seed_error(*([math.fsum(run) / len(run) for run in side] for side in sides))
    return math.hypot(of_problems, seeds.error) if seeds is not None else of_problems


def _means(runs: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each problem over the runs."""
    return [math.fsum(values) / len(values) for values in zip(*runs, strict=True)]


def _notes(sides: Sequence[Sequence[RunReader]]) -> list[str]:
    runs = [run for side in sides for run in side]
    names = labels(runs)
    first, second = names[: len(sides[0])], names[len(sides[0]) :]
    notes = [
        *unfinished(list(zip(runs, names, strict=True))),
        f"first: {', '.join(first)}; second: {', '.join(second)}. The difference is the second less the first, with a "
        "95% interval" + (", over runs and problems." if len(runs) > 2 else "."),
        f"p: {'t test over runs and problems' if len(runs) > 2 else 'sign-flip test of the paired differences'}, and "
        "after Holm over the rows of single tasks. McNemar: where both runs have one sample of each problem. "
        "detectable: the smallest true difference found with 80% power at the 5% level.",
    ]
    if len(runs) > 2:
        notes.append(
            "Interval, p, p (Holm) and detectable count seeds: they are about other runs of the same two kinds. p "
            "(runs) regroups the runs, so it is never small with few of them. p (these runs only) is the sign-flip "
            "test over problems: it ignores seeds, and says nothing about the methods behind the runs."
        )
        if min(map(len, sides)) < FEWEST_RUNS:
            notes.append(
                f"FEW RUNS: a statement about seeds needs at least {FEWEST_RUNS} runs a side; with "
                f"{min(map(len, sides))} the interval is valid but so wide that it decides little."
            )
    return notes


def _left_out(found: Sequence[Paired]) -> list[str]:
    first = {paired.task: paired for paired in reversed(found)}
    return [
        f"LEFT OUT: {paired.n_unpaired} problems of {task} without graded samples in some run"
        for task, paired in sorted(first.items())
        if paired.n_unpaired
    ]
