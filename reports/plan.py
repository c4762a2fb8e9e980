"""How many samples, problems and runs tell two runs apart, from the variances seen in runs that are there.

Only the run folders are read.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.types import Table
from harness.reports.compare import comparable
from harness.reports.paired_values import RATE, Measured, Paired, measure, pairs
from harness.reports.run_facts import Cell

COLUMNS = ("task", "runs a side", "samples", "detectable", "problems needed", "completions a run")


def plan(
    first: Sequence[Path],
    second: Sequence[Path],
    *,
    difference: float,
    power: float,
    k: int = 1,
    grader: str | None = None,
    anyway: bool = False,
) -> Table:
    """Tabulate for each task what detects a difference of pass@k, for several numbers of samples and of runs.

    avg is pass@1.
    """
    if not 0.05 < power < 1:
        raise UsageError(f"--power is between 0.05 and 1, such as 0.8, not {power:g}")
    found = comparable(first, second, is_regraded=grader is not None, anyway=anyway)
    sides = [[measure(run, found.tasks, grader, RATE) for run in side] for side in found.sides]
    rows: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for task in found.tasks:
        ours, theirs = ([run[task] for run in side] for side in sides)
        for paired in pairs(task, ours, theirs):
            more, note = _of_task(paired, ours, theirs, difference, power, k)
            rows += more
            notes.append(note)
    if not rows:
        raise UsageError("no problem has graded samples in all runs, so there is nothing to plan from")
    notes += [
        f"detectable: the smallest true difference of {_name(k)} found with {power:.0%} power at the 5% level on the "
        f"same number of problems. problems needed: for a difference of {difference:g}; empty where no number "
        "suffices, because seeds alone differ too much. The components are estimates from these runs: with few "
        "problems they are rough.",
        *found.alarms,
        *found.notes,
    ]
    return Table("Plan", COLUMNS, tuple(rows), tuple(notes))


def parse_metric(name: str | None) -> int:
    """Return the k of a metric that can be planned: avg, pass_at_k (both 1) or pass@k."""
    k = (name if name is not None else RATE).removeprefix("pass@")
    if name in (None, RATE):
        return 1
    if not k.isdecimal() or int(k) < 1 or name != f"pass@{int(k)}":
        raise UsageError(f"--plan is for avg and for pass@k, such as pass@8, not for {name}")
    return int(k)


def _name(k: int) -> str:
    return RATE if k == 1 else f"pass@{k}"


def _of_task(
    paired: Paired, first: Sequence[Measured], second: Sequence[Measured], difference: float, power: float, k: int
) -> tuple[list[tuple[Cell, ...]], str]:
    from harness.stats.planning import Components, components, factor

    is_kept = [all(run.counts[p].n_graded >= 2 * k for run in (*first, *second)) for p in paired.problems]
    kept = [problem for problem, keep in zip(paired.problems, is_kept, strict=True) if keep]
    if len(kept) < 2:
        raise UsageError(
            f"{paired.task} has {len(kept)} problems with {2 * k} graded samples in every run, and planning {_name(k)} "
            f"needs two: sampling variance shows only in repeated samples; run the evaluations with --n {2 * k} or more"
        )
    clusters = _usable(paired.clusters, is_kept)

    def counts(side: Sequence[Measured]) -> list[list[tuple[int, int]]]:
        return [[(round(run.values[RATE][p] * (n := run.counts[p].n_graded)), n) for p in kept] for run in side]

    seen: Components = components(counts(first), counts(second), k, clusters)
    m, most = len(kept), max(run.counts[p].n_graded for run in (*first, *second) for p in kept)
    shown = {k, 1, 4, 16, 64, 256, most}
    rows: list[tuple[Cell, ...]] = []
    for n_runs in sorted({1, len(first), len(second), 3, 5}) if seen.seeds > 0 else [max(len(first), len(second))]:
        for n in (n for n in sorted(shown) if n >= k):
            needed = seen.problems_needed(difference, n, n_runs, power)
            detectable = factor(power) * seen.error(m, n, n_runs)
            rows.append((paired.task, n_runs, n, detectable, needed, needed * n if needed is not None else None))
    with_these = seen.samples_needed(difference, m, max(len(first), len(second)), power)
    answer = (
        f"{with_these} samples of each problem find {difference:g}"
        if with_these is not None
        else f"no number of samples finds {difference:g}: more problems or runs are needed"
    )
    return rows, (
        f"{paired.task}: with these {m} problems and {max(len(first), len(second))} run(s) a side, {answer}. "
        f"Variances of {_name(k)}: between problems {seen.between:.4f}, of {k} sample{'s' if k > 1 else ''} "
        f"of both sides {seen.samples:.4f}, of seeds {seen.seeds:.6f}.{_of_clusters(clusters)}"
    )


def _usable(clusters: Sequence[Hashable] | None, is_kept: Sequence[bool]) -> Sequence[Hashable] | None:
    """Return the clusters of the problems that are kept, if there are still enough of them."""
    from harness.stats.intervals import usable  # numpy

    if clusters is None:
        return None
    return usable([cluster for cluster, keep in zip(clusters, is_kept, strict=True) if keep])


def _of_clusters(clusters: Sequence[Hashable] | None) -> str:
    if clusters is None:
        return ""
    n = len(set(clusters))
    return (
        f" The problems are in {n} clusters, {len(clusters) / n:.1f} in each on average, whose spread is counted; "
        "further problems are taken to come in such clusters."
    )
