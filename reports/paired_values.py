"""Values of a task's problems in several runs, paired by problem, for a comparison.

Only the run folders are read. Any metric that has a value for each problem can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core import registry
from harness.core.config import parse_plugin
from harness.core.errors import RunFolderError, UsageError, nearest
from harness.core.protocols import Metric
from harness.core.types import Completion, Estimate, Graded, Problem, StoredCompletion, Tokens, Verdict
from harness.metrics.base.grouping import AtSeveralK
from harness.reports.protocol_card import grader_of
from harness.reports.run_config import run_config
from harness.runs.folder import RunReader
from harness.runs.index import CompletionIndex

RATE = "avg"
"""The share of right samples. Its k is the number of samples, which may differ between compared runs."""
Values = Mapping[str, Mapping[str, float]]
"""Value by metric and problem."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of samples of one problem in one run."""

    n_graded: int
    n_ungraded: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of one run on one task."""

    counts: Mapping[str, Counts]
    values: Values
    clusters: Mapping[str, str]
    """The cluster of each problem that has one."""


@dataclass(frozen=True, slots=True)
class Paired:
    """The problems for which all runs of both sides have a value, and the values by run and problem."""

    task: str
    metric: str
    problems: Sequence[str]
    clusters: Sequence[Hashable] | None
    """The cluster of each problem, if there are enough of them."""
    first: Sequence[Sequence[float]]
    second: Sequence[Sequence[float]]
    n_graded: int
    n_ungraded: int
    n_unpaired: int
    are_single: bool
    """Whether there is one run per side and one sample of each problem."""


def measure(
    run: RunReader, tasks: Sequence[str], grader: str | None, metric: str | None, also: Sequence[str] = ()
) -> dict[str, Measured]:
    """Compute values by task, under a grader or the run's own: of one metric, or of all in the run's config.

    `also` are ids of further metrics.
    """
    clusters, plugins = run.clusters(), [*_metrics(run, metric), *(build_metric(name) for name in also)]
    return {
        task: _measured(graded, clusters.get(task, {}), metric, plugins)
        for task, graded in graded_samples(run, tasks, grader).items()
    }


def graded_samples(run: RunReader, tasks: Sequence[str], grader: str | None = None) -> dict[str, list[Graded[Any]]]:
    """Return by task the verdicts on the samples that the config asks for, under a grader or the run's own."""
    graders = {task: grader if grader is not None else str(grader_of(run, task)) for task in tasks}
    records = CompletionIndex(run, graders)
    return {task: _graded(run, task, graders[task], records) for task in tasks}


def _measured(
    graded: Sequence[Graded[Any]], clusters: Mapping[str, str], metric: str | None, plugins: Sequence[Metric]
) -> Measured:
    values: dict[str, Mapping[str, float]] = {}
    for plugin in plugins:
        values |= {_common_name(name): found for name, found in plugin.per_problem(graded).items()}
    outcomes: dict[str, list[str]] = {}
    for item in graded:
        outcomes.setdefault(item.problem.id, []).append(item.verdict.outcome)
    counts = {
        problem: Counts(len(found) - found.count("ungraded"), found.count("ungraded"))
        for problem, found in outcomes.items()
    }
    return Measured(counts, values if metric is None else _only(metric, values), clusters)


def _graded(run: RunReader, task: str, grader: str, records: CompletionIndex) -> list[Graded[Any]]:
    """Return the verdicts on the samples that the config asks for, with their completions."""
    if not records.verdicts[task]:
        raise UsageError(
            f"{run.folder} has no verdicts of the grader {grader!r} on {task}; {nearest(grader, run.graders())} "
            f"(`harness grade {run.folder} --grader {grader}` adds them)"
        )
    n, samples, problems = run_config(run).n, records.completions[task], dict[str, Problem[None]]()
    found: list[Graded[Any]] = []
    for (problem_id, index), verdict in records.verdicts[task].items():
        if n is None or index < n:
            problem = problems.setdefault(problem_id, Problem(problem_id, task, (), None))
            completion: Completion | StoredCompletion | None = samples.get((problem_id, index))
            if completion is None:
                completion = _lost(run, verdict, problem_id, index)
            found.append(Graded(problem, completion, verdict))
    return found


def _lost(run: RunReader, verdict: Verdict, problem_id: str, index: int) -> Completion:
    """Return a placeholder for a completion that the engine failed to generate."""
    if verdict.outcome != "ungraded":
        raise RunFolderError(
            f"{run.folder} has a verdict on {problem_id}[{index}] and no completion: restore its files"
        )
    return Completion(problem_id, index, 0, "", "failed", Tokens(0, 0))


# --- metrics ----------------------------------------------------------------------------------------------------


def _metrics(run: RunReader, metric: str | None) -> list[Metric]:
    """Build the rate and the metrics of the run's config, or the metrics that may give the requested one."""
    if metric is not None:
        ids = (
            [metric]
            if metric in registry.entries("metrics")
            else sorted(filter(_is_quick, registry.entries("metrics")))
        )
        return [_with_k(plugin, metric.rpartition("@")[2]) for plugin in ids]
    others = [m.settings() for m in run_config(run).metrics if m.id != "avg_at_k"]
    return [parse_plugin("metrics", settings).build() for settings in ({"id": "avg_at_k"}, *others)]


def build_metric(plugin: str, **options: Any) -> Metric:
    metric: Metric = parse_plugin("metrics", {"id": plugin, **options}).build()
    return metric


def _is_quick(plugin: str) -> bool:
    """Whether a metric needs no model. One that embeds texts is built only when named."""
    return not registry.load("metrics", plugin).loads_model


def _with_k(plugin: str, k: str) -> Metric:
    has_ks = k.isdigit() and issubclass(registry.load("metrics", plugin), AtSeveralK)
    return build_metric(plugin, **({"ks": [int(k)]} if has_ks else {}))


def mean_with_interval(name: str, measured: Measured) -> Estimate | None:
    """Return the mean of a metric over problems with its interval; None where no problem has a value."""
    from harness.stats.intervals import mean_interval  # numpy

    values = dict(sorted(measured.values.get(name, {}).items()))
    if not values:
        return None
    clusters = [_cluster([measured], problem) for problem in values]
    interval = mean_interval(list(values.values()), max(1.0, *values.values(), 0.0), clusters)
    counts = [measured.counts[problem] for problem in values]
    return Estimate(
        name=name,
        value=math.fsum(values.values()) / len(values),
        low=interval.low,
        high=interval.high,
        n_problems=len(values),
        n_completions=sum(count.n_graded for count in counts),
        n_ungraded=sum(count.n_ungraded for count in counts),
        method=interval.method,
    )


def _common_name(name: str) -> str:
    return RATE if name.startswith(f"{RATE}@") else name


def _only(metric: str, values: Values) -> Values:
    """Return the values of the metric of that name, or all of the plug-in of that id."""
    if metric in registry.entries("metrics"):
        return values
    name = _common_name(metric)
    if name not in values:
        raise UsageError(f"no metric gives {metric!r} problem by problem for these runs; {nearest(name, values)}")
    return {name: values[name]}


# --- pairs ------------------------------------------------------------------------------------------------------


def pairs(task: str, first: Sequence[Measured], second: Sequence[Measured]) -> list[Paired]:
    """Pair the values of each metric that all runs have, without duplicates such as pass@1 of avg."""
    runs = [*first, *second]
    names = [name for name in runs[0].values if all(name in run.values for run in runs)]
    kept: list[Paired] = []
    for paired in (_paired(task, name, first, second) for name in names):
        if paired.problems and not any(_is_same(paired, other) for other in kept):
            kept.append(paired)
    return kept


def _paired(task: str, metric: str, first: Sequence[Measured], second: Sequence[Measured]) -> Paired:
    from harness.stats.intervals import usable  # numpy

    runs = [*first, *second]
    shared = sorted(set.intersection(*(set(run.values[metric]) for run in runs)))
    counts = [run.counts[problem] for run in runs for problem in shared]
    return Paired(
        task=task,
        metric=metric,
        problems=shared,
        clusters=usable([_cluster(runs, problem) for problem in shared]),
        first=[[run.values[metric][problem] for problem in shared] for run in first],
        second=[[run.values[metric][problem] for problem in shared] for run in second],
        n_graded=sum(c.n_graded for c in counts),
        n_ungraded=sum(c.n_ungraded for c in counts),
        n_unpaired=len(set.union(*(set(run.counts) for run in runs))) - len(shared),
        are_single=len(runs) == 2 and metric == RATE and all(c.n_graded == 1 for c in counts),
    )


def _cluster(runs: Sequence[Measured], problem: str) -> str:
    """Return the cluster of a problem; without one, a cluster of its own."""
    families = [f"of {run.clusters[problem]}" for run in runs if problem in run.clusters]
    return families[0] if families else problem


def _is_same(one: Paired, other: Paired) -> bool:
    import numpy as np

    return one.problems == other.problems and all(
        np.allclose(ours, theirs, rtol=0, atol=1e-9)
        for ours, theirs in ((one.first, other.first), (one.second, other.second))
    )


def _clusters(paired: Paired) -> Sequence[Hashable]:
    return paired.clusters if paired.clusters is not None else paired.problems


def pooled(name: str, tasks: Sequence[Paired]) -> Paired:
    """Pool one metric over all problems of several tasks, each problem with equal weight."""

    from harness.stats.intervals import usable  # numpy

    def joined(sides: Iterable[Sequence[Sequence[float]]]) -> list[list[float]]:
        return [[value for run in runs for value in run] for runs in zip(*sides, strict=True)]

    return Paired(
        task=name,
        metric=tasks[0].metric,
        problems=[f"{paired.task}/{problem}" for paired in tasks for problem in paired.problems],
        clusters=usable([f"{paired.task}/{cluster}" for paired in tasks for cluster in _clusters(paired)]),
        first=joined(paired.first for paired in tasks),
        second=joined(paired.second for paired in tasks),
        n_graded=sum(paired.n_graded for paired in tasks),
        n_ungraded=sum(paired.n_ungraded for paired in tasks),
        n_unpaired=0,
        are_single=all(paired.are_single for paired in tasks),
    )
