"""`harness train`: from a config to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from harness import evaluate
from harness.core import config as configs
from harness.core.errors import ConfigError, RunError, RunFolderError
from harness.core.models import fingerprint, load_module, load_tokenizer, step_of
from harness.core.progress import Progress
from harness.core.protocols import Objective, PolicyEngine, Task
from harness.core.seeds import derive
from harness.core.store import RunStore, RunView, ending
from harness.core.task_facts import grader_name, judged_by, task_facts
from harness.trainers.checkpoint import Checkpoints
from harness.trainers.loop import Trainer
from harness.trainers.policy import Policy
from harness.trainers.settings import TrainConfig
from harness.trainers.trackers import make_trackers


def train(config: TrainConfig, folder: Path, progress: Progress) -> RunView:
    """Open or resume the run folder and train to the last step. Everything that can be refused is refused first."""
    task, objective = config.task.build("tasks"), config.objective.build("objectives")
    engine = _policy_engine(config)
    base = config.model.source(derive(config.seed, "weights"))
    if base.dtype == "auto":
        base = dataclasses.replace(base, dtype="float32")  # half-precision weights swallow small updates
    tokenizer = load_tokenizer(base)
    # Demonstrations are drawn from no temperature: their likelihood is the model's own.
    temperature = _temperature(config, task) if objective.source == "policy" else 1.0
    _refuse_what_the_objective_cannot_use(config, objective)
    _refuse_what_the_rollouts_leave_without_effect(config, task, objective)
    newest = Checkpoints(folder, config.checkpoint.keep).newest()
    _refuse_fewer_steps(config, newest)
    resumed = base if newest is None else dataclasses.replace(base, path=str(newest), revision=None, random_seed=None)
    policy = Policy(load_module(resumed), temperature, checkpoint_activations=config.loop.gradient_checkpointing)
    reference = Policy(load_module(base), temperature) if _reads_reference(config, objective) else None
    objective.prepare(policy.shape, derive(config.seed, "objective"))
    engine.open(dataclasses.replace(base, module=policy.module, tokenizer=tokenizer))
    trackers = make_trackers(config.track, folder, configs.to_tree(config))
    rewarding = judged_by(task, config.grader)
    data = _data(config, rewarding, base.path, progress)
    store = RunStore.open(folder, "train", config, seeds={"run": config.seed}, data=data)

    def hold_out() -> None:
        _hold_out(config, task, engine, store, progress)

    with ending(store), contextlib.ExitStack() as closing:
        if Checkpoints(folder, config.checkpoint.keep).newest() != newest:
            raise RunError("another process has just trained this run further; run the same command again")
        closing.callback(engine.close)
        for tracker in trackers:
            closing.callback(tracker.close)
        Trainer(
            config, rewarding, objective, engine, policy, reference, tokenizer, store, trackers, progress, hold_out
        ).fit()
    return store.view()


def _data(config: TrainConfig, task: Task[Any], model_path: str, progress: Progress) -> dict[str, Any]:
    grader = grader_name(task, config.grader)
    facts = task_facts(task, "train", grader=grader, is_strict=config.strict_data, warn=progress.warn)
    return {config.task.id: facts, "model": fingerprint(model_path)}


def _reads_reference(config: TrainConfig, objective: Objective) -> bool:
    return "reference_logp" in objective.needs or config.kl.place != "off"


def _refuse_what_the_objective_cannot_use(config: TrainConfig, objective: Objective) -> None:
    loop, name = config.loop, config.objective.id
    if "group" in objective.needs and loop.samples_per_prompt < 2:
        raise ConfigError(
            f"the objective {name!r} compares the completions of a prompt: set loop.samples_per_prompt to 2 or more"
        )
    if "several_updates" in objective.needs and loop.minibatches_per_step * loop.epochs < 2:
        raise ConfigError(
            f"the objective {name!r} measures how far a step's updates have gone, and there is only one: set "
            "loop.minibatches_per_step or loop.epochs to 2 or more"
        )
    if config.dynamic_sampling.max_extra_rounds > 0 and loop.samples_per_prompt < 2:
        raise ConfigError("dynamic_sampling drops groups of equal rewards, and one completion is always such a group")
    if config.reference.reset_every_steps > 0 and not _reads_reference(config, objective):
        raise ConfigError(
            f"reference.reset_every_steps is set, and nothing reads a reference: neither the objective {name!r} with "
            "these options nor a KL of the loop (kl.place)"
        )


def _refuse_what_the_rollouts_leave_without_effect(config: TrainConfig, task: Task[Any], objective: Objective) -> None:
    max_tokens = config.sampling.over(task.sampling).max_tokens
    if config.overlong.buffer_tokens > max_tokens:
        raise ConfigError(
            f"overlong.buffer_tokens is more than the {max_tokens} tokens that are sampled, so every completion would "
            "pay; set it lower, or sampling.max_tokens higher"
        )
    of_rewards_and_samples = {
        "kl.place = 'reward'": config.kl.place == "reward",
        "overlong.buffer_tokens": config.overlong.buffer_tokens > 0,
        "dynamic_sampling": config.dynamic_sampling.max_extra_rounds > 0,
        "engine_correction": config.engine_correction.level != "off",
        "loop.logp_old = 'engine'": config.loop.logp_old == "engine",
    }
    ignored = [name for name, is_set in of_rewards_and_samples.items() if is_set]
    if objective.source == "demonstrations" and ignored:
        raise ConfigError(
            f"the objective {config.objective.id!r} learns from demonstrations, which are not sampled, and reads no "
            f"reward: {', '.join(ignored)} would do nothing; leave it off"
        )


def _temperature(config: TrainConfig, task: Task[Any]) -> float:
    sampling = config.sampling.over(task.sampling)
    if sampling.top_p < 1 or sampling.top_k > 0 or sampling.temperature == 0:
        raise ConfigError(
            "this task samples with top_p, top_k or temperature 0 by itself, which biases training; set "
            "sampling.top_p = 1, sampling.top_k = 0 and a sampling.temperature above 0"
        )
    return sampling.temperature


def _refuse_fewer_steps(config: TrainConfig, newest: Path | None) -> None:
    if newest is not None and step_of(newest) > config.loop.steps:
        raise RunFolderError(
            f"{newest.parent.parent} has {step_of(newest)} steps already, more than loop.steps = {config.loop.steps}; "
            "ask for more, or choose another --out"
        )


def _policy_engine(config: TrainConfig) -> PolicyEngine:
    engine = config.engine.build("engines")
    if not hasattr(engine, "load_weights"):
        raise ConfigError(f"the engine {config.engine.id!r} can't follow a policy in training; use hf")
    policy_engine: PolicyEngine = engine
    return policy_engine


def _hold_out(config: TrainConfig, task: Task[Any], engine: PolicyEngine, store: RunStore, progress: Progress) -> None:
    """The same evaluation as `harness eval`, in a run folder of its own inside this one."""
    held = config.held_out
    checkpoint = Checkpoints(store.folder, config.checkpoint.keep).newest()
    assert checkpoint is not None, "a checkpoint is saved before every held-out evaluation"
    folder = store.folder / "evals" / checkpoint.name
    if (folder / "run.json").exists() and RunView.read(folder).record.status == "done":
        return
    sampling = dataclasses.replace(
        config.sampling,
        temperature=held.temperature if held.temperature is not None else config.sampling.temperature,
    )
    settings = configs.parse(
        evaluate.EvalConfig,
        {
            "model": {**configs.to_tree(config.model), "path": str(checkpoint), "weights": "pretrained"},
            "tasks": [configs.to_tree(config.task)],
            "engine": configs.to_tree(config.engine),
            "sampling": configs.to_tree(sampling),
            "split": held.split,
            "n": held.n,
            "limit": held.limit,
            "seed": derive(config.seed, "held-out"),
        },
    )
    evaluate.evaluate_open_engine(settings, str(checkpoint), {config.task.id: task}, engine, folder, progress)
