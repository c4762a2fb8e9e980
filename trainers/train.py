"""`harness train`: from a config to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.errors import ConfigError, RunError, UsageError
from harness.core.progress import Progress
from harness.core.protocols import Adviser, ModelSource, Objective, PolicyEngine, Task
from harness.core.seeds import derive
from harness.data.dataset_facts import judged_by
from harness.evaluation import loop
from harness.evaluation.config import EvalConfig
from harness.models.loading import fingerprint, load_tokenizer
from harness.runs.folder import RunReader, RunWriter, ending
from harness.trainers.checkpoint import Checkpoints
from harness.trainers.checks import (
    reads_reference,
    refuse_fewer_steps,
    refuse_prompts_the_model_cannot_read,
    refuse_what_the_objective_cannot_use,
    refuse_what_the_rollouts_leave_without_effect,
    temperature_of,
)
from harness.trainers.collect import collect
from harness.trainers.config import TrainConfig
from harness.trainers.loop import Trainer
from harness.trainers.memory import told_what_to_lower
from harness.trainers.policies import load_policies, sampling_source
from harness.trainers.policy.model import Policy
from harness.trainers.rollout_file import RolloutFile, RolloutWriter
from harness.trainers.saved_rollouts import (
    NoEngine,
    Replay,
    data_facts,
    open_rollouts,
    refuse_other_rollouts,
    rollout_facts,
)
from harness.trainers.trackers import make_trackers


@dataclass(frozen=True, slots=True)
class TrainSetup:
    """What a config names, built and found to go together; nothing is loaded yet."""

    task: Task[Any]
    """Judged as training rewards it."""
    objective: Objective
    engine: PolicyEngine
    base: ModelSource
    temperature: float
    held_out: dict[str, Task[Any]]
    """What is evaluated during training, each task under its own grader."""
    saved: RolloutFile | None
    """Where rollouts come from, if not from the engine."""
    newest: Path | None
    """The checkpoint that the run goes on from."""
    advice: tuple[str, ...]
    """What a person is told before the run."""


def build_setup(config: TrainConfig, folder: Path) -> TrainSetup:
    """Everything that can be refused before a model is loaded is refused here, for a dry run too."""
    task, objective = config.task.build("tasks"), config.objective.build("objectives")
    engine = _policy_engine(config)
    base = config.model.source(derive(config.seed, "weights"))
    if base.dtype == "auto":
        base = dataclasses.replace(base, dtype="float32")  # half-precision weights swallow small updates
    # Demonstrations are drawn from no temperature: their likelihood is the model's own.
    temperature = temperature_of(config, task) if objective.source == "policy" else 1.0
    refuse_what_the_objective_cannot_use(config, objective)
    refuse_what_the_rollouts_leave_without_effect(config, task, objective)
    advice = objective.advice() if isinstance(objective, Adviser) else ()
    others = {chosen.id: task if chosen == config.task else chosen.build("tasks") for chosen in _held_out_tasks(config)}
    _refuse_tasks_without_problems(config, others)
    saved = open_rollouts(config, objective) if config.rollouts.source is not None else None
    newest = Checkpoints(folder, config.checkpoint.keep).newest()
    refuse_fewer_steps(folder, config.loop.steps)
    told = tuple(f"objective: {line}" for line in advice)
    rewarding = judged_by(task, config.grader)
    return TrainSetup(rewarding, objective, engine, base, temperature, others, saved, newest, told)


@told_what_to_lower()
def train(config: TrainConfig, folder: Path, progress: Progress) -> RunReader:
    """Open or resume the run folder and train to the last step. Everything that can be refused is refused first."""
    parts = build_setup(config, folder)
    if config.rollouts.only:
        return collect(config, parts, folder, progress)
    for line in parts.advice:
        progress.warn(line)
    task, objective, base, file, newest = parts.task, parts.objective, parts.base, parts.saved, parts.newest
    engine = parts.engine if file is None or config.held_out.every_steps > 0 else NoEngine()
    data = data_facts(config, task, progress)
    about = {config.task.id: data, "model": fingerprint(base.path), **(file.about() if file is not None else {})}
    RunWriter.refuse(folder, "train", config, about)
    trackers = make_trackers(config.track, folder, configs.to_tree(config))  # what follows may take minutes
    tokenizer = load_tokenizer(base)
    with_reference = reads_reference(config, objective)
    policy, reference = load_policies(config, base, newest, parts.temperature, with_reference=with_reference)
    refuse_prompts_the_model_cannot_read(config, parts, tokenizer, policy.module)
    objective.prepare(policy.shape, derive(config.seed, "objective"))
    facts = rollout_facts(config, task, data, tokenizer, policy.tensors())
    if file is not None:
        refuse_other_rollouts(file, facts, is_begun=newest is not None)
    source = sampling_source(config, base)
    engine.open(dataclasses.replace(source, module=policy.module, tokenizer=tokenizer))
    store = RunWriter.open(folder, "train", config, seeds={"run": config.seed}, data=about)

    def hold_out() -> None:
        _hold_out(config, parts.held_out, engine, store, progress)

    with ending(store), told_what_to_lower(), contextlib.ExitStack() as closing:
        if Checkpoints(folder, config.checkpoint.keep).newest() != newest:
            raise RunError("another process has just trained this run further; run the same command again")
        for close in (engine.close, *(tracker.close for tracker in trackers)):
            closing.callback(close)
        writer = RolloutWriter(folder, facts) if config.rollouts.save else None
        if writer is not None:
            closing.callback(writer.close)
        replay = _replay(file, config, objective, policy, progress)
        shared = (config, task, objective, engine, policy, reference, tokenizer, store, trackers, progress)
        Trainer(*shared, hold_out, replay, writer).fit()
    return store.view()


def _replay(
    file: RolloutFile | None, config: TrainConfig, objective: Objective, policy: Policy, progress: Progress
) -> Replay | None:
    is_recomputed = config.loop.logp_old in ("recompute", "live")
    return Replay(file, objective, policy, progress, is_recomputed) if file is not None else None


def _policy_engine(config: TrainConfig) -> PolicyEngine:
    engine = config.engine.build("engines")
    if not hasattr(engine, "load_weights"):
        raise ConfigError(f"the engine {config.engine.id!r} can't follow a policy in training; use hf")
    policy_engine: PolicyEngine = engine
    return policy_engine


def _held_out_tasks(config: TrainConfig) -> tuple[configs.PluginChoice, ...]:
    return config.held_out.tasks if config.held_out.tasks else (config.task,)


def _refuse_tasks_without_problems(config: TrainConfig, tasks: dict[str, Task[Any]]) -> None:
    """Before the first step, not at the first evaluation."""
    held = config.held_out
    for name, task in tasks.items() if held.every_steps > 0 else ():
        try:
            loop.problems_of(task, held.split, 0, held.limit)
        except UsageError as error:
            raise ConfigError(
                f"held_out can't evaluate the task {name!r} on the split {held.split!r}: {error}"
            ) from None


def _hold_out(
    config: TrainConfig, tasks: dict[str, Task[Any]], engine: PolicyEngine, store: RunWriter, progress: Progress
) -> None:
    """The same evaluation as `harness eval`, in a run folder of its own inside this one."""
    held = config.held_out
    checkpoint = Checkpoints(store.folder, config.checkpoint.keep).newest()
    assert checkpoint is not None, "a checkpoint is saved before every held-out evaluation"
    folder = store.folder / "evals" / checkpoint.name
    if (folder / "run.json").exists() and RunReader.read(folder).record.status == "done":
        return
    sampling = dataclasses.replace(
        config.sampling,
        temperature=held.temperature if held.temperature is not None else config.sampling.temperature,
        max_tokens=held.max_tokens if held.max_tokens is not None else config.sampling.max_tokens,
    )
    settings = configs.parse(
        EvalConfig,
        {
            "model": {**configs.to_tree(config.model), "path": str(checkpoint), "weights": "pretrained"},
            "tasks": [configs.to_tree(chosen) for chosen in _held_out_tasks(config)],
            "engine": configs.to_tree(config.engine),
            "sampling": configs.to_tree(sampling),
            "split": held.split,
            "n": held.n,
            "limit": held.limit,
            "seed": derive(config.seed, "held-out"),
        },
    )
    loop.evaluate_open_engine(settings, str(checkpoint), tasks, engine, folder, progress)
