"""The policy and its reference, as a run begins or goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from harness.core.protocols import ModelSource
from harness.core.seeds import derive
from harness.models.loading import load_module
from harness.trainers.config import TrainConfig
from harness.trainers.policy.lora import AdapterReference, Adapters
from harness.trainers.policy.model import Policy


def sampling_source(config: TrainConfig, base: ModelSource) -> ModelSource:
    """What engines open: one with weights of its own computes in the precision of training."""
    return base if config.loop.precision == "float32" else dataclasses.replace(base, dtype=config.loop.precision)


def load_policies(
    config: TrainConfig, base: ModelSource, newest: Path | None, temperature: float, *, with_reference: bool
) -> tuple[Policy, Policy | AdapterReference | None]:
    """The policy of the base model or of the newest checkpoint, and the base model as reference if it is read."""

    def made(module: Any, adapters: Adapters | None = None, *, is_trained: bool = True) -> Policy:
        return Policy(
            module,
            temperature,
            checkpoint_activations=is_trained and config.loop.gradient_checkpointing,
            precision=config.loop.precision,
            is_compiled=config.loop.compile,
            adapters=adapters,
        )

    if config.lora.rank > 0:
        module = load_module(base)
        adapters = Adapters(module, config.lora, derive(config.seed, "lora"), base.path)
        if newest is not None:
            adapters.load(newest)
        policy = made(module, adapters)
        return policy, AdapterReference(policy, adapters) if with_reference else None
    resumed = base if newest is None else dataclasses.replace(base, path=str(newest), revision=None, random_seed=None)
    return made(load_module(resumed)), made(load_module(base), is_trained=False) if with_reference else None
