"""A training run resolved from its config: built and checked once, then passed whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.config import PluginChoice
from harness.core.errors import ConfigError, UsageError
from harness.core.protocols import Backend, Engine, ModelSource, Objective, Task
from harness.core.seeds import derive
from harness.evaluation.select import problems_of
from harness.evaluation.setup import with_grader
from harness.trainers.checkpoint import Checkpoints
from harness.trainers.checks import (
    check_demonstrations,
    check_objective,
    check_rewards,
    check_rollout_settings,
    check_steps,
    reads_reference,
    temperature_of,
    warnings_of,
)
from harness.trainers.config import TrainConfig
from harness.trainers.saved_rollouts import RolloutFile, open_rollouts


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetup:
    """Everything that a config names, built and checked to go together. No model is loaded yet."""

    config: TrainConfig
    task: Task[Any]
    """With the grader whose rewards are trained on."""
    objective: Objective
    engine: Engine
    backend: Backend
    base: ModelSource
    temperature: float
    max_tokens: int
    held_out: dict[str, Task[Any]]
    """The tasks that are evaluated during training, each with its own grader."""
    saved: RolloutFile | None
    """Where rollouts come from, if not from the engine."""
    newest: Path | None
    """The checkpoint to resume from."""
    warnings: tuple[str, ...]
    """Warnings about settings that have no effect, or less than their name says."""

    @property
    def with_reference(self) -> bool:
        return reads_reference(self.config, self.objective)

    @property
    def needs_engine(self) -> bool:
        """Whether anything is sampled."""
        is_sampled = self.saved is None and self.objective.source == "policy"
        return is_sampled or self.config.held_out.every_steps > 0

    @property
    def sampling_source(self) -> ModelSource:
        """The model as the engine opens it: an engine with weights of its own computes in the precision of training."""
        precision = self.config.loop.precision
        return self.base if precision == "float32" else dataclasses.replace(self.base, dtype=precision)


def build_setup(config: TrainConfig, folder: Path) -> TrainSetup:
    """Build everything, and raise every error that can be found before a model is loaded, for a dry run too."""
    task, objective = config.task.build(), config.objective.build()
    engine = _policy_engine(config)
    base = config.model.source(derive(config.seed, "weights"))
    if base.dtype == "auto":
        base = dataclasses.replace(base, dtype="float32")  # half-precision weights swallow small updates
    # Demonstrations are not drawn at a temperature: their likelihood is the model's own.
    temperature = temperature_of(config, task) if objective.source == "policy" else 1.0
    check_objective(config, objective)
    check_rollout_settings(config, task, objective)
    check_demonstrations(task, objective)
    graded = with_grader(task, config.grader)
    check_rewards(config, graded.grader, objective)
    held_out = {chosen.id: task if chosen == config.task else chosen.build() for chosen in held_out_tasks(config)}
    _refuse_tasks_without_problems(config, held_out)
    saved = open_rollouts(config, objective) if config.rollouts.source is not None else None
    check_steps(folder, config.loop.steps)
    graded.grader.check()
    setup = TrainSetup(
        config=config,
        task=graded,
        objective=objective,
        engine=engine,
        backend=config.backend.build(),
        base=base,
        temperature=temperature,
        max_tokens=config.sampling.over(task.sampling).max_tokens,
        held_out=held_out,
        saved=saved,
        newest=Checkpoints(folder, config.checkpoint.keep).newest(),
        warnings=warnings_of(config, objective),
    )
    setup.backend.check(setup)
    return setup


def held_out_tasks(config: TrainConfig) -> tuple[PluginChoice, ...]:
    return config.held_out.tasks if config.held_out.tasks else (config.task,)


def _policy_engine(config: TrainConfig) -> Engine:
    engine: Engine = config.engine.build()
    if not engine.follows_policy:
        raise ConfigError(f"the engine {config.engine.id!r} can't load new weights during training; use hf or vllm")
    return engine


def _refuse_tasks_without_problems(config: TrainConfig, tasks: dict[str, Task[Any]]) -> None:
    """Raise now for a held-out task without problems, not at the first evaluation."""
    held = config.held_out
    for name, task in tasks.items() if held.every_steps > 0 else ():
        try:
            problems_of(task, held.split, 0, held.limit)
        except UsageError as error:
            raise ConfigError(
                f"held_out can't evaluate the task {name!r} on the split {held.split!r}: {error}"
            ) from None
