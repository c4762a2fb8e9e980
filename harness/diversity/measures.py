"""Measures of several runs at the same numbers of samples, stored in the folder of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core import registry
from harness.core.config import parse_plugin
from harness.core.errors import UsageError, nearest
from harness.core.progress import Progress
from harness.core.protocols import Metric
from harness.diversity.arms import Arm, Sizes, common_tasks, flat, sizes_of
from harness.runs.diversity_file import TaskDiversity, Values, read_diversity, write_diversity


def measures(*, with_models: bool) -> list[str]:
    """Return the ids of the metrics that measure diversity: those that load no model, or those that do."""
    loaded = {name: registry.load("metrics", name) for name in registry.entries("metrics")}
    return [n for n, metric in loaded.items() if metric.measures_diversity and metric.loads_model == with_models]


def build(name: str, sizes: Sizes, options: Mapping[str, Any]) -> Metric | None:
    """Return the metric for these sizes; None if it has no use for any that is there."""
    given = {key: size for key, size in (("samples", sizes.samples), ("correct", sizes.correct)) if size is not None}
    metric: Metric = parse_plugin("metrics", {"id": name, **given, **options}).build()
    return metric if given else None


def check_ids(names: Sequence[str]) -> None:
    """Raise for an id that is not a diversity metric."""
    known = [*measures(with_models=False), *measures(with_models=True)]
    for name in names:
        if name not in known:
            raise UsageError(f"{name!r} does not measure diversity; {nearest(name, known)}")


def measure(
    arms: Sequence[Arm], names: Sequence[str], options: Mapping[str, Mapping[str, Any]], progress: Progress
) -> dict[str, Sizes]:
    """Compute the metrics of every common task at common sizes, and store them in each run. Return the sizes."""
    found: dict[str, Sizes] = {}
    for task in common_tasks(arms):
        sizes = found[task] = sizes_of(arms, task)
        if sizes.samples is None:
            progress.warn(f"{task}: a run has fewer than 2 samples of a problem, so its diversity is not defined")
        progress.begin(f"diversity of {task}", len(names) * len(arms))
        # Built once for all runs: a metric that loads a model does so for the first.
        metrics = [metric for name in names if (metric := build(name, sizes, options.get(name, {}))) is not None]
        for arm in arms:
            values: dict[str, Mapping[str, tuple[float, ...]]] = {}
            cards: dict[str, Mapping[str, Any]] = {}
            for metric in metrics:
                values |= single(metric.per_problem(flat(arm.graded[task])))
                cards |= metric.cards()
                progress.advance()
            store(arm, task, sizes, arms, values, cards)
        progress.end()
    return found


def single(values: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return values that no judge was asked for, as those of one pass."""
    return {name: {problem: (value,) for problem, value in found.items()} for name, found in values.items()}


def store(
    arm: Arm,
    task: str,
    sizes: Sizes,
    arms: Sequence[Arm],
    values: Values,
    cards: Mapping[str, Mapping[str, Any]],
) -> None:
    """Add values to the file of a run."""
    former = read_diversity(arm.run.folder)
    cards = {**cards, "problems": {"several_approaches": arm.tasks[task].task.card.several_approaches}}
    mine = TaskDiversity(sizes.samples, sizes.correct, tuple(other.id for other in arms), values, cards)
    write_diversity(arm.run.folder, {**former, task: mine.added_to(former.get(task))})
