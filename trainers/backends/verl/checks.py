"""Objectives and settings that verl can't carry, refused with the reason and the nearest that can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.core.errors import ConfigError
from harness.models.chat import PLAIN

if TYPE_CHECKING:
    from harness.trainers.backends.verl import Verl
    from harness.trainers.setup import TrainSetup


def check(setup: TrainSetup, options: Verl.Config) -> None:
    """Raise ConfigError for the first reason why verl can't train this run."""
    for reasons in (_of_objective(setup), _of_model(setup), _of_loop(setup), _of_batches(setup, options)):
        for reason, holds in reasons.items():
            if holds:
                raise ConfigError(f"the backend verl can't train this run: {reason}")


def _of_objective(setup: TrainSetup) -> dict[str, bool]:
    objective, name = setup.objective, setup.config.objective.id
    return {
        f"{name!r} learns from demonstrations, and this trainer of verl samples; use --backend loop": (
            objective.source == "demonstrations"
        ),
        f"{name!r} compares with a greedy completion of each prompt, which verl's trainer does not sample; the nearest "
        "objective is rloo, whose baseline are the other samples, or use --backend loop": (
            "greedy_reward" in objective.needs
        ),
    }


def _of_model(setup: TrainSetup) -> dict[str, bool]:
    base, model = setup.base, setup.config.model
    return {
        "verl reads weights from files; model.weights = 'random' has none. Use --backend loop": (
            base.random_seed is not None
        ),
        "verl takes no revision of a hub model: download it (`hf download`) and name its folder": (
            base.revision is not None
        ),
        "verl writes prompts with the model's own template: set chat_template in its tokenizer_config.json, and leave "
        "model.chat_template out": base.chat_template_of is not None,
        "verl keeps float32 weights: leave model.dtype at 'auto', and set loop.precision": (
            model.dtype not in ("auto", "float32")
        ),
    }


def _of_loop(setup: TrainSetup) -> dict[str, bool]:
    config = setup.config
    return {
        "rollouts are not saved or read by it: leave rollouts off, or use --backend loop": (
            config.rollouts.save or config.rollouts.source is not None
        ),
        "its reference is never reset: leave reference off, or use --backend loop": config.reference.is_ever_reset,
        "its workers know no coefficient that changes: leave kl.target off, or use --backend loop": (
            config.kl.target is not None
        ),
        "it has a pass of its own before the updates: set loop.logp_old = 'recompute', or 'engine' for the sampler's": (
            config.loop.logp_old == "live"
        ),
        "its layers are not compiled: leave loop.compile off": config.loop.compile,
        "its sampler is given no stop strings: leave sampling.stop off": bool(
            config.sampling.over(setup.task.sampling).stop
        ),
    }


def _of_batches(setup: TrainSetup, options: Verl.Config) -> dict[str, bool]:
    loop = setup.config.loop
    per_minibatch = loop.prompts_per_step * loop.samples_per_prompt // loop.minibatches_per_step
    return {
        f"its minibatches have equal numbers of prompts, and {loop.prompts_per_step} prompts make no "
        f"{loop.minibatches_per_step} equal ones; change loop.prompts_per_step": (
            loop.prompts_per_step % loop.minibatches_per_step != 0
        ),
        f"each of {options.n_gpus} GPUs gets an equal share of a minibatch, and {per_minibatch} completions can't be "
        "shared so; change backend.nodes or backend.gpus_per_node": per_minibatch % options.n_gpus != 0,
    }


def check_prompts(setup: TrainSetup, messages: list[str]) -> None:
    """Refuse prompts that are not a conversation: verl writes every prompt with the model's chat template."""
    if PLAIN in messages or messages[-1:] == ["assistant"]:
        raise ConfigError(
            f"the prompts of {setup.config.task.id} are written without a chat template, and verl uses the model's: "
            "use --backend loop"
        )
