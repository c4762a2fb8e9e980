"""The part of a step without gradient, on verl's driver: shaped rewards and advantages, where whole groups are."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.protocols import Objective
from harness.core.seeds import derive
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.backends.verl.fields import ScoredRows
from harness.trainers.config import TrainConfig
from harness.trainers.engine_mismatch import engine_weights
from harness.trainers.kl import with_kl_in_reward
from harness.trainers.reward_shaping import with_mara, with_overlong_penalty


def score_rows(
    config: TrainConfig,
    objective: Objective,
    batch: Batch,
    old: PolicyOutputs,
    *,
    step: int,
    max_tokens: int,
    minibatches: Tensor,
    trained: Tensor | None = None,
) -> ScoredRows:
    """Return everything that the workers need of a step, as `Learner.score` computes it.

    Rows that are not `trained` count in the statistics of their group, and are not in the loss. All (B,)
    """
    batch = shaped(config, batch, old, max_tokens)
    weights = None
    if config.engine_correction.level != "off":
        weights = engine_weights(batch, old.logp, config.engine_correction)
    with torch.random.fork_rng():
        torch.manual_seed(derive(config.seed, "credit", step))
        advantages = objective.advantages(batch, old)
    everything = torch.ones(len(batch.rewards), dtype=torch.bool)
    return ScoredRows(
        batch=batch,
        advantages=advantages,
        trained=trained if trained is not None else everything,
        minibatches=minibatches,
        engine_weights=weights,
    )


def shaped(config: TrainConfig, batch: Batch, old: PolicyOutputs, max_tokens: int) -> Batch:
    """Apply everything that changes rewards, in the order of our own loop."""
    if config.overlong.buffer_tokens > 0:
        batch = with_overlong_penalty(batch, config.overlong, max_tokens)
    if config.mara.beta > 0:
        batch = with_mara(batch, old, config.mara)
    if config.kl.place == "reward":
        batch = with_kl_in_reward(batch, old, config.kl)
    return batch
