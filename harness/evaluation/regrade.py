"""`harness grade`: grade the completions of a run again, without generating anything.

The verdicts are appended under the grader's name, so those of other graders stay. Under the task's own grader the run's
metrics are written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.config import PluginChoice, label_of
from harness.core.errors import RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import Grader
from harness.core.types import Estimate, Graded
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import estimates_of, ungraded_reasons
from harness.evaluation.pipeline import verdict_of
from harness.evaluation.setup import TaskSetup, build_metrics, resolve_tasks
from harness.runs.folder import RunReader, RunWriter
from harness.runs.index import CompletionIndex

ENGINE_KEYS = ("engine", "model")
"""Parts of a stored config that matter to generating alone. Those of an older version may have keys that are gone."""


@dataclass(frozen=True, slots=True)
class Regraded:
    """The config's metrics under the grader, by task, and how many completions it could not judge."""

    estimates: dict[str, list[Estimate]]
    n_completions: int
    n_ungraded: int
    too_many_ungraded: bool
    reasons: dict[str, int]
    """Why completions are ungraded, the most frequent reason first."""


def regrade(folder: Path, choice: PluginChoice | None, n_threads: int | None, progress: Progress) -> Regraded:
    """Grade every completion of an evaluation again, with the chosen grader or the run's own. Its status stays."""
    config = stored_config(folder)
    tasks = resolve_tasks(config, progress)
    graders = {name: _grader(choice, task) for name, task in tasks.items()}
    writer = RunWriter.reopen(folder, {name: task.facts for name, task in tasks.items()})
    try:
        graded: dict[str, list[Graded[Any]]] = {}
        for name, task in tasks.items():
            label, grader = graders[name]
            graded[name] = list(_grade_again(writer, task, label, grader, n_threads, progress))
            writer.record_regrading(name, label, dict(grader.facts()))
        estimates = _estimates(config, tasks, graded)
        if all(label == tasks[name].grader_name for name, (label, _) in graders.items()):
            writer.write_metrics(estimates)
    finally:
        writer.close()
    everything = [item for of_task in graded.values() for item in of_task]
    n_ungraded = sum(item.verdict.outcome == "ungraded" for item in everything)
    is_over = n_ungraded > config.max_ungraded * len(everything)
    return Regraded(estimates, len(everything), n_ungraded, is_over, ungraded_reasons(everything))


def stored_config(folder: Path) -> EvalConfig:
    """Return the config of the run, without how its completions were generated."""
    run = RunReader.read(folder)
    if run.record.kind != "eval":
        raise RunFolderError(f"{folder} is a train run; name one of its evaluations, such as {folder}/evals/...")
    kept = {key: value for key, value in run.config().items() if key not in ENGINE_KEYS}
    return configs.parse(EvalConfig, {**kept, "model": {"path": ""}, "engine": "scripted"})


def _grader(choice: PluginChoice | None, task: TaskSetup) -> tuple[str, Grader[Any]]:
    """Return the name and the grader. The run's own grader keeps its options."""
    if choice is None or label_of(choice) == task.grader_name:
        return task.grader_name, task.grader
    return label_of(choice), choice.build()


def _grade_again(
    writer: RunWriter, task: TaskSetup, label: str, grader: Grader[Any], n_threads: int | None, progress: Progress
) -> Iterator[Graded[Any]]:
    """Yield the stored completions of a task with new verdicts, which are stored."""
    n_threads = n_threads if n_threads is not None else grader.n_at_once
    samples = CompletionIndex(writer.reader(), {task.id: label}).completions[task.id]
    keys = ((problem, (problem.id, index)) for problem in task.problems for index in range(task.plan.n))
    pairs = [(problem, samples[key]) for problem, key in keys if key in samples]
    progress.begin(f"grade {task.id} with {label}", len(pairs), 0)
    try:
        with ThreadPoolExecutor(n_threads) as threads:
            verdicts = threads.map(lambda pair: verdict_of(grader, pair[0], pair[1].load()), pairs)
            for (problem, completion), verdict in zip(pairs, verdicts, strict=True):
                writer.append_verdict(task.id, problem.id, completion.index, label, verdict)
                progress.advance(True, {})
                yield Graded(problem, completion, verdict)
    finally:
        progress.end()


def _estimates(
    config: EvalConfig, tasks: Mapping[str, TaskSetup], graded: Mapping[str, list[Graded[Any]]]
) -> dict[str, list[Estimate]]:
    metrics = build_metrics(config)
    found: dict[str, list[Estimate]] = {}
    for name, task in tasks.items():
        found |= estimates_of(task, metrics, graded[name], tasks)
    return found
