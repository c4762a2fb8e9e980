"""Checks of a training run that need more than its config, made before anything is loaded or written."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, ModelError, RunFolderError
from harness.core.protocols import Grader, ModelSource, Objective, Task
from harness.core.types import Sampling
from harness.models.chat import prompt_ids
from harness.models.loading import checkpoint_folders, context_of, step_of
from harness.trainers.config import TrainConfig
from harness.trainers.learner import why_not_live

N_PROMPTS_READ = 32


def reads_reference(config: TrainConfig, objective: Objective) -> bool:
    return "reference_logp" in objective.needs or config.kl.place != "off" or config.mara.beta > 0


def check_steps(folder: Path, steps: int) -> None:
    """Refuse fewer steps than the run folder has already."""
    done = max(map(step_of, checkpoint_folders(folder)), default=0)
    if done > steps:
        raise RunFolderError(
            f"{folder} has {done} steps already, more than loop.steps = {steps}; ask for more, or choose another --out"
        )


def check_objective(config: TrainConfig, objective: Objective) -> None:
    """Refuse settings of the loop that the objective can't be trained with."""
    loop, name = config.loop, config.objective.id
    if "group" in objective.requires and loop.samples_per_prompt < 2:
        raise ConfigError(
            f"the objective {name!r} compares the completions of a prompt: set loop.samples_per_prompt to 2 or more"
        )
    advantage = objective.advantage if "group" in objective.requires else None
    if advantage is not None and loop.samples_per_prompt < advantage.least_group:
        raise ConfigError(
            f"the advantage {advantage.plugin_id!r} with these options takes at least {advantage.least_group} "
            f"completions of a prompt, and loop.samples_per_prompt is {loop.samples_per_prompt}: raise it, or lower "
            "objective.advantage.k"
        )
    if "several_updates" in objective.requires and loop.minibatches_per_step * loop.epochs < 2:
        raise ConfigError(
            f"the objective {name!r} measures how far a step's updates have gone, and there is only one: set "
            "loop.minibatches_per_step or loop.epochs to 2 or more"
        )
    if "on_policy" in objective.requires and loop.minibatches_per_step * loop.epochs > 1:
        has_surrogate = any(field.name == "surrogate" for field in dataclasses.fields(objective.config))
        raise ConfigError(
            f"the objective {name!r} takes no ratio, and every update of a step but the first would be biased: set "
            + "objective.surrogate = 'clipped', or " * has_surrogate
            + "loop.minibatches_per_step and loop.epochs to 1"
        )
    if loop.logp_old == "live" and (reason := why_not_live(config, objective)) is not None:
        raise ConfigError(
            "loop.logp_old = 'live' takes the log-probabilities before the step from its one update, and "
            f"{reason}: set loop.logp_old = 'recompute'"
        )
    if config.dynamic_sampling.max_extra_rounds > 0 and loop.samples_per_prompt < 2:
        raise ConfigError("dynamic_sampling drops groups of equal rewards, and one completion is always such a group")
    if config.reference.is_ever_reset and not reads_reference(config, objective):
        raise ConfigError(
            f"a reset of the reference is set, and nothing reads a reference: neither the objective {name!r} with "
            "these options nor a KL of the loop (kl.place)"
        )


def check_rewards(config: TrainConfig, grader: Grader[Any], objective: Objective) -> None:
    """Refuse rewards and graders that the objective's advantage is not defined for."""
    low, high = grader.reward_range
    reasons = {
        f"the grader {grader.plugin_id!r} gives rewards from {low:g} to {high:g}": low < 0 or high > 1,
        "overlong.buffer_tokens subtracts a penalty from them": config.overlong.buffer_tokens > 0,
        "kl.place = 'reward' subtracts a KL from them": config.kl.place == "reward",
        "mara.beta adds to them": config.mara.beta > 0,
    }
    name = f"the advantage {objective.advantage.plugin_id!r}" if objective.advantage is not None else "this objective"
    for reason in (reason for reason, holds in reasons.items() if holds and "unit_rewards" in objective.requires):
        raise ConfigError(f"{name} is defined for rewards in [0, 1], and {reason}; change that, or the advantage")
    if "solution_classes" in objective.needs and not grader.names_solutions:
        raise ConfigError(
            f"{name} compares the solutions of right completions, and the grader {grader.plugin_id!r} does not name "
            "them: set objective.advantage.classes = 'answer', or choose another advantage"
        )


def warnings_of(config: TrainConfig, objective: Objective) -> tuple[str, ...]:
    """Return warnings about settings that are allowed and do less than their name says."""
    found = [f"objective: {line}" for line in objective.warnings()]
    if config.mara.beta > 0 and config.kl.place != "off" and config.kl.coefficient != config.mara.beta:
        found.append(
            f"mara.beta = {config.mara.beta:g} and kl.coefficient = {config.kl.coefficient:g}: right completions "
            "become equally probable only where the two are the same"
        )
    return tuple(found)


def check_rollout_settings(config: TrainConfig, task: Task[Any], objective: Objective) -> None:
    """Refuse settings of sampling and rewards that would have no effect."""
    max_tokens = config.sampling.over(task.sampling).max_tokens
    if config.overlong.buffer_tokens > max_tokens:
        raise ConfigError(
            f"overlong.buffer_tokens is more than the {max_tokens} tokens that are sampled, so every completion would "
            "pay; set it lower, or sampling.max_tokens higher"
        )
    of_rewards_and_samples = {
        "kl.place = 'reward'": config.kl.place == "reward",
        "overlong.buffer_tokens": config.overlong.buffer_tokens > 0,
        "mara.beta": config.mara.beta > 0,
        "dynamic_sampling": config.dynamic_sampling.max_extra_rounds > 0,
        "engine_correction": config.engine_correction.level != "off",
        "engine_correction.max_gap": config.engine_correction.max_gap is not None,
        f"loop.logp_old = '{config.loop.logp_old}'": config.loop.logp_old in ("engine", "live"),
        "rollouts": config.rollouts.only or config.rollouts.save or config.rollouts.source is not None,
    }
    ignored = [name for name, is_set in of_rewards_and_samples.items() if is_set]
    if objective.source == "demonstrations" and ignored:
        raise ConfigError(
            f"the objective {config.objective.id!r} learns from demonstrations, which are not sampled, and reads no "
            f"reward: {', '.join(ignored)} would do nothing; leave it off"
        )


def temperature_of(config: TrainConfig, task: Task[Any]) -> float:
    """Return the sampling temperature; refuse a task whose own sampling would bias training."""
    sampling = config.sampling.over(task.sampling)
    off = Sampling(max_tokens=1).truncation()
    remedies = {name: f"sampling.{name} = {off[name]:g}" for name in sampling.truncating()}
    if sampling.temperature == 0:
        remedies["temperature 0"] = "a sampling.temperature above 0"
    if remedies:
        raise ConfigError(
            f"this task samples with {' and '.join(remedies)} by default, which biases training; set "
            f"{' and '.join(remedies.values())}"
        )
    return sampling.temperature


def check_demonstrations(task: Task[Any], objective: Objective) -> None:
    if objective.source == "demonstrations" and not task.has_demonstrations:
        raise ConfigError("this objective learns from demonstrations, and this task has none")


def check_prompts(task: Task[Any], base: ModelSource, tokenizer: Any, module: Any, n_sampled: int) -> None:
    """Refuse prompts that the model can't read. At most `n_sampled` tokens follow a prompt."""
    problems = itertools.islice(task.problems("train", 0), N_PROMPTS_READ)
    prompts = [prompt_ids(tokenizer, problem.messages) for problem in problems]
    largest, n_known = max(tokenizer.eos_token_id, *map(max, prompts)), module.get_input_embeddings().num_embeddings
    if largest >= n_known:
        raise ModelError(
            f"the tokenizer of {base.path} writes the token {largest}, and the model has {n_known} tokens: it "
            "belongs to another model; put the right tokenizer into the model's folder"
        )
    longest, context = max(map(len, prompts)), context_of(base)
    if n_sampled > 0 and context is not None and longest + n_sampled > context:
        raise ModelError(
            f"a prompt has {longest} tokens; with {n_sampled} new ones it exceeds the model's context of {context}; "
            f"set sampling.max_tokens to at most {context - longest}"
        )
