"""An evaluation with everything it is made of: `resolve` builds an `EvalSetup` once, and it is passed whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.core import registry
from harness.core.config import PluginChoice, label_of
from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.core.protocols import Engine, Grader, Metric, ModelSource, Task
from harness.core.seeds import derive
from harness.core.types import Problem
from harness.data.dataset_facts import task_facts
from harness.evaluation.config import EvalConfig, Plan, PromptConfig
from harness.evaluation.select import problems_of, select_problems
from harness.models.loading import fingerprint
from harness.runs.folder import RunIdentity, RunWriter

T = TypeVar("T", bound=Task[Any])


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """A task as an evaluation asks it."""

    id: str
    task: Task[Any]
    """With the grader that the config chose, if it chose one."""
    grader_name: str
    """Its verdicts are stored under this name."""
    problems: Sequence[Problem[Any]]
    plan: Plan
    facts: Mapping[str, Any]
    """For the run record."""

    @property
    def grader(self) -> Grader[Any]:
        return self.task.grader

    @property
    def n_completions(self) -> int:
        return len(self.problems) * self.plan.n


@dataclass(frozen=True, slots=True)
class EvalSetup:
    """An evaluation of which everything is known that can be known before the model is loaded."""

    config: EvalConfig
    folder: Path
    engine: Engine
    source: ModelSource
    tasks: Mapping[str, TaskSetup]
    metrics: Sequence[Metric]
    identity: RunIdentity
    label: str = ""
    """Progress prints it before the name of a task."""


def resolve(
    config: EvalConfig,
    folder: Path,
    progress: Progress,
    *,
    engine: Engine | None = None,
    tasks: Mapping[str, Task[Any]] | None = None,
) -> EvalSetup:
    """Build everything that the config names. An engine or tasks that exist already are taken as they are."""
    metrics = build_metrics(config)
    engine = engine if engine is not None else config.engine.build()
    source = config.model.source(derive(config.seed, "weights"), is_remote=engine.is_remote)
    resolved = resolve_tasks(config, progress, tasks)
    data = {name: task.facts for name, task in resolved.items()}
    if not engine.is_remote:  # the server of a remote model describes it once it is open
        data["model"] = fingerprint(source.path)
        if source.chat_template_of is not None:
            data["chat template"] = fingerprint(source.chat_template_of)
    identity = RunIdentity.of("eval", config, seeds={"run": config.seed}, data=data)
    return EvalSetup(config, folder, engine, source, resolved, metrics, identity)


def check(setup: EvalSetup) -> None:
    """Raise for everything that would fail after the model is loaded. Writes nothing.

    That is a folder of another run, a grader or metric that can't work here, an engine that can't score texts, and
    prompts that the model can't read.
    """
    RunWriter.check(setup.folder, setup.identity)
    for task in setup.tasks.values():
        task.grader.check()
    for metric in setup.metrics:
        metric.check()
    check_scorer(setup)
    requests = (task.plan.request(p, 0, 0) for task in setup.tasks.values() for p in _generated(task.problems))
    setup.engine.check_prompts(setup.source, requests)


def check_scorer(setup: EvalSetup) -> None:
    """Raise if a problem has passages to score and the engine can't."""
    has_passages = any(problem.passages for task in setup.tasks.values() for problem in task.problems)
    if has_passages and not setup.engine.can_score:
        raise ConfigError(
            f"the engine {setup.engine.plugin_id!r} gives no log-likelihoods, which this task asks for; use --engine "
            "hf or vllm"
        )


def _generated(problems: Sequence[Problem[Any]]) -> Iterator[Problem[Any]]:
    """Yield the problems that text is generated for. Passages are scored in windows, so none is too long."""
    return (problem for problem in problems if not problem.passages)


# --- tasks ------------------------------------------------------------------------------------------------------


def resolve_tasks(
    config: EvalConfig, progress: Progress, tasks: Mapping[str, Task[Any]] | None = None
) -> dict[str, TaskSetup]:
    """Build the config's tasks with their graders, problems and facts. Warn of altered data, or raise if strict."""
    built = tasks if tasks is not None else build_tasks(config)
    problems = {
        name: _rewritten(config.prompt_of(name), name, some) for name, some in problems_for(config, built).items()
    }
    return {name: _resolve_task(config, name, task, problems[name], progress) for name, task in built.items()}


def _resolve_task(
    config: EvalConfig, name: str, task: Task[Any], problems: Sequence[Problem[Any]], progress: Progress
) -> TaskSetup:
    grader = grader_name(task, config.judge(name))
    facts = task_facts(task, config.split, grader=grader, is_strict=config.strict_data, warn=progress.warn)
    return TaskSetup(name, task, grader, problems, config.plan(name, task), facts)


def _rewritten(prompt: PromptConfig, name: str, problems: Sequence[Problem[Any]]) -> Sequence[Problem[Any]]:
    """Return the problems with the configured changes of their prompts."""
    if prompt == PromptConfig():
        return problems
    if any(problem.passages for problem in problems):
        raise ConfigError(f"{name} scores given texts, whose prompts can't be changed: leave prompt.* out")
    return [replace(problem, messages=prompt.rewrite(problem.messages)) for problem in problems]


def build_tasks(config: EvalConfig) -> dict[str, Task[Any]]:
    """Return the tasks by id, each with the grader that the config chose."""
    return {chosen.id: with_grader(chosen.build(), config.judge(chosen.id)) for chosen in config.tasks}


def build_metrics(config: EvalConfig) -> tuple[Metric, ...]:
    return tuple(chosen.build() for chosen in config.metrics)


def problems_for(config: EvalConfig, tasks: Mapping[str, Task[Any]]) -> dict[str, list[Problem[Any]]]:
    """Return the problems of each task that the config asks: the first ones, or chosen ones."""
    problems = {
        name: problems_of(task, config.split, config.problem_seed, config.limit) for name, task in tasks.items()
    }
    return select_problems(problems, config.problems) if config.problems is not None else problems


def grader_name(task: Task[Any], chosen: PluginChoice | None) -> str:
    """Return the name that verdicts are stored under: the chosen grader with its options, or the task's own."""
    return label_of(chosen) if chosen is not None else registry.id_of("graders", type(task.grader))


def with_grader(task: T, chosen: PluginChoice | None) -> T:
    """Return the task with the chosen grader. Choosing its own keeps the options that the task gave it."""
    if chosen is None or grader_name(task, chosen) == grader_name(task, None):
        return task
    changed: Any = copy.copy(task)
    try:
        changed.grader = chosen.build()
    except AttributeError as error:
        raise ConfigError(f"this task can't be given another grader than its own: {error}") from error
    return cast(T, changed)
