"""Diversity: measures at equal numbers of samples, one row for each model or method, paired by problem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, Table
from harness.reports.methods import Method, methods_of
from harness.reports.run_facts import Cell, Labelled, labelled, unfinished
from harness.runs.diversity_file import TaskDiversity, read_diversity
from harness.runs.folder import RunReader

if TYPE_CHECKING:
    from harness.stats.intervals import Floats

TITLES = {
    "final answers": ("distinct_answers", "answer_entropy", "novelty", "pass_"),
    "right solutions": ("coverage", "hill", "majority_share"),
    "strategies": ("strategy_", "flowrl"),
    "embeddings": ("embedding", "vendi"),
    "wording": ("distinct-", "ead", "1-self_bleu", "div_equ"),
}
OTHER = "other measures"
FEW_WITH_SEVERAL = 0.1
"""Below this share of problems with several approaches a table says that its numbers mean little."""
CARDS = {"embeddings": ("encoder",), "strategies": ("judge", "flowrl-legacy")}
"""The cards in the footer of each table."""


@dataclass(frozen=True, slots=True)
class Column:
    """One measure of some methods on the problems that all of their runs have."""

    name: str
    problems: Sequence[str]
    values: Mapping[str, Floats]
    """By method: [seeds, passes, problems]."""

    @property
    def title(self) -> str:
        return f"{self.name} (n={len(self.problems)})"


class Diversity(TableBuilder[RunReader]):
    """The measures that `harness diversity` stored, for each task: a table of means for each kind of measure, and one
    of differences from the first row.

    Runs that differ in their seed alone are one method. A column pairs the problems that all rows have a value for.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        evaluations = labelled(runs, "eval")
        stored = {run.folder: read_diversity(run.folder) for run, _ in evaluations}
        tasks = dict.fromkeys(task for run, _ in evaluations for task in stored[run.folder])
        tables: list[Table] = []
        for task in tasks:
            have = [(run, label) for run, label in evaluations if task in stored[run.folder]]
            measured = {run.folder: stored[run.folder][task] for run, _ in have}
            tables += _of_task(task, have, measured)
        return tables


def _of_task(task: str, have: Sequence[Labelled], measured: Mapping[Any, TaskDiversity]) -> Iterator[Table]:
    methods = methods_of(have)
    columns = _columns(methods, measured)
    clusters = {problem: family for run, _ in have for problem, family in run.clusters().get(task, {}).items()}
    by_title: dict[str, list[Column]] = defaultdict(list)
    for column in columns:
        by_title[_title(column.name)].append(column)
    for title in (*TITLES, OTHER):
        if title in by_title:
            notes = (*unfinished(have), *_notes(measured, title))
            yield from _tables(f"Diversity of {task}: {title}", by_title[title], methods, clusters, notes)


def _title(name: str) -> str:
    return next((title for title, prefixes in TITLES.items() if name.startswith(prefixes)), OTHER)


def _columns(methods: Sequence[Method], measured: Mapping[Any, TaskDiversity]) -> list[Column]:
    import numpy as np

    names = dict.fromkeys(name for one in measured.values() for name in one.values)
    columns = []
    for name in names:
        having = {m.label: [measured[run.folder].values.get(name, {}) for run in m.runs] for m in methods}
        having = {label: found for label, found in having.items() if all(found)}
        shared = [set(values) for found in having.values() for values in found]
        problems = sorted(set.intersection(*shared)) if shared else []
        if problems:
            arrays = {}
            for label, found in having.items():
                n_passes = min(len(values[p]) for values in found for p in problems)
                arrays[label] = np.array([[values[p][:n_passes] for p in problems] for values in found]).swapaxes(1, 2)
            columns.append(Column(name, problems, arrays))
    return columns


def _tables(
    title: str, columns: Sequence[Column], methods: Sequence[Method], clusters: Mapping[str, str], notes: Sequence[str]
) -> Iterator[Table]:
    """Yield the table of means and, with several methods, the table of differences from the first."""
    names = [column.title for column in columns]
    cells = [_cells(column, methods, clusters) for column in columns]
    means = tuple((m.label, len(m.runs), *(means[m.label] for means, _ in cells)) for m in methods)
    yield Table(title, ("method", "runs", *names), means, tuple(notes))
    if len(methods) > 1:
        rows = tuple((m.label, *(less[m.label] for _, less in cells)) for m in methods[1:])
        note = f"Differences from {methods[0].label} on the same problems; an interval without 0 is a difference."
        yield Table(f"{title}, less {methods[0].label}", ("method", *names), rows, (note,))


def _cells(
    column: Column, methods: Sequence[Method], clusters: Mapping[str, str]
) -> tuple[dict[str, Cell], dict[str, Cell]]:
    from harness.stats.diversity import crossed_draws, crossed_interval
    from harness.stats.intervals import DRAWS, INTERVAL_SEED, LEVEL, mean_interval, usable

    labels = list(column.values)
    families = usable([clusters.get(p, p) for p in column.problems])
    n_passes = min(array.shape[1] for array in column.values.values())
    arrays = [column.values[label][:, :n_passes] for label in labels]
    draws = crossed_draws(arrays, families)
    first = methods[0].label
    means: dict[str, Cell] = {method.label: None for method in methods}
    less: dict[str, Cell] = dict(means)
    upper = max(1.0, *(float(array.max()) for array in arrays))
    for place, (label, array) in enumerate(zip(labels, arrays, strict=True)):
        over = _over(array.shape, families)
        how = f"{LEVEL:.0%} bootstrap over {over}, {DRAWS} draws, seed {INTERVAL_SEED}"
        low, high = crossed_interval(draws[:, place])
        if array.shape[:2] == (1, 1) or array.shape[2] == 1 or high - low <= 1e-9 * upper:
            # Without levels, or where a bootstrap would claim certainty.
            interval = mean_interval(array.mean(axis=(0, 1)).clip(0, upper).tolist(), upper, families)
            low, high, how = interval.low, interval.high, interval.method
        means[label] = _estimate(column, float(array.mean()), low, high, how)
        if first in labels and label != first:
            gap = float(array.mean() - arrays[labels.index(first)].mean())
            low, high = crossed_interval(draws[:, place] - draws[:, labels.index(first)])
            if high - low <= 1e-9 * upper:  # at most a share u of all problems may have another difference
                z2 = NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
                margin = upper * z2 / (array.shape[2] + z2)
                low, high = gap - margin, gap + margin
            less[label] = _estimate(column, gap, low, high, f"paired, {how}")
    return means, less


def _over(shape: tuple[int, ...], families: Sequence[Hashable] | None) -> str:
    n_seeds, n_passes, n_problems = shape
    parts = [f"{n_problems} problems" if families is None else f"{len(set(families))} clusters of problems"]
    parts += [f"{n_seeds} runs"] if n_seeds > 1 else []
    parts += [f"{n_passes} passes of the judge"] if n_passes > 1 else []
    return " and ".join(parts)


def _estimate(column: Column, value: float, low: float, high: float, method: str) -> Estimate:
    return Estimate(column.name, value, low, high, len(column.problems), 0, 0, method)


def _notes(measured: Mapping[Any, TaskDiversity], title: str) -> list[str]:
    """Note the sizes, and the cards of the models that this kind of measure depends on, each once."""
    sizes = {(one.samples, one.correct) for one in measured.values()}
    notes = [
        *_approaches(measured),
        "[low, high] is a 95% interval over problems, and over runs and passes of the judge where there are several; n "
        "is the number of problems that all rows have. `-`: not measured, or not defined.",
    ]
    if len(sizes) > 1:
        notes.append(
            "UNPAIRED: these runs were measured at different numbers of samples; run `harness diversity` on all of them"
        )
    shown = CARDS.get(title, ())
    cards = [(kind, card) for one in measured.values() for kind, card in one.cards.items()]
    lines = [
        f"{kind}: {', '.join(f'{key} {value}' for key, value in card.items())}" for kind, card in cards if kind in shown
    ]
    is_judged = any(kind == "judge" for kind, _ in cards)
    if title == "right solutions" and not is_judged:
        lines.append("Strategies by a judge: not measured.")
    return [*notes, *dict.fromkeys(lines)]


def _approaches(measured: Mapping[Any, TaskDiversity]) -> list[str]:
    """Note how many problems admit more than one approach, first of all where almost none does."""
    shares = {one.cards.get("problems", {}).get("several_approaches") for one in measured.values()}
    if shares == {None}:
        return ["It is not known how many of these problems admit more than one approach."]
    share = min(share for share in shares if share is not None)
    text = f"{share:.1%} of the problems are known to admit more than one approach"
    if share < FEW_WITH_SEVERAL:
        return [f"NOTHING TO BE DIVERSE ABOUT: only {text}, so a difference in diversity is one of wording."]
    return [f"{text}."]


TABLE = Diversity
