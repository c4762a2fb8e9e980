"""`harness grade`: the completions of a run under a grader, without generating anything.

The verdicts are appended under the grader's name, so that those of other graders stay. Under the task's own grader
the run's metrics are written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.config import PluginChoice, label_of
from harness.core.errors import RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import Grader, Task
from harness.core.types import Estimate, Graded, Problem
from harness.data.dataset_facts import facts_of, grader_name
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import data_facts, estimates_of, problems_for, tasks_of
from harness.runs.folder import RunReader, RunWriter
from harness.runs.index import CompletionIndex


@dataclass(frozen=True, slots=True)
class Regraded:
    """The config's metrics under the grader, by task, and how many completions it could not judge."""

    estimates: dict[str, list[Estimate]]
    n_completions: int
    n_ungraded: int
    too_many_ungraded: bool


def regrade(folder: Path, grader: PluginChoice | None, n_threads: int | None, progress: Progress) -> Regraded:
    """Grade every completion of an evaluation again: with this grader, or with the run's own.

    The run's status stays what it was.
    """
    view = RunReader.read(folder)
    if view.record.kind != "eval":
        raise RunFolderError(f"{folder} is a train run; name one of its evaluations, such as {folder}/evals/...")
    config = configs.parse(EvalConfig, view.config())
    tasks = tasks_of(config)
    data = data_facts(config, tasks, progress)
    data |= {name: dict(facts) for name, facts in view.record.data.items() if name not in data}
    problems = problems_for(config, tasks)
    store = RunWriter.open(folder, "eval", config, seeds=view.record.seeds, data=data)
    try:
        estimates: dict[str, list[Estimate]] = {}
        graded: list[Graded[Any]] = []
        is_own = True
        for name, task in tasks.items():
            own = grader_name(task, config.judge(name))
            label, judge = _named(grader, own, task)
            is_own = is_own and label == own
            n = config.plan(name, task).n
            mine = list(_graded(store, name, label, judge, problems[name], n, n_threads, progress))
            store.note_regrading(name, label, facts_of(judge))
            estimates |= estimates_of(config, name, task, mine)
            graded += mine
        if is_own:
            store.write_metrics(estimates)
    finally:
        former = view.record.status
        store.finish(former if former != "running" else "interrupted", view.record.error)
    n_ungraded = sum(item.verdict.outcome == "ungraded" for item in graded)
    return Regraded(estimates, len(graded), n_ungraded, n_ungraded > config.max_ungraded * len(graded))


def _named(grader: PluginChoice | None, own: str, task: Task[Any]) -> tuple[str, Grader[Any]]:
    """The run's own grader keeps its own options."""
    if grader is None or label_of(grader) == own:
        return own, task.grader
    return label_of(grader), grader.build("graders")


def _graded(
    store: RunWriter,
    task: str,
    label: str,
    grader: Grader[Any],
    problems: Sequence[Problem[Any]],
    n: int,
    n_threads: int | None,
    progress: Progress,
) -> Iterator[Graded[Any]]:
    n_at_once: int = getattr(grader, "n_at_once", 1)
    samples = CompletionIndex(store.view(), {task: label}).completions[task]
    keys = ((problem, (problem.id, index)) for problem in problems for index in range(n))
    pairs = [(problem, samples[key]) for problem, key in keys if key in samples]
    progress.begin(f"grade {task} with {label}", len(pairs), 0)
    try:
        with ThreadPoolExecutor(n_threads if n_threads is not None else n_at_once) as threads:
            verdicts = threads.map(lambda pair: grader.grade(pair[0], pair[1].load()), pairs)
            for (problem, completion), verdict in zip(pairs, verdicts, strict=True):
                store.append_verdict(task, problem.id, completion.index, label, verdict)
                progress.advance(True, {})
                yield Graded(problem, completion, verdict)
    finally:
        progress.end()
