"""The old log-probs, those of the policy before a step: from the engine, a pass, or the step's one update.

The only update of a step starts from the old policy. Its own log-probs, without gradient, are then the old ones: every
ratio is exactly 1 with the gradient of the ratio, and no separate pass is needed.
"""

from __future__ import annotations

from typing import Literal

import torch

from harness.core.errors import EngineError
from harness.core.protocols import Objective
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.config import TrainConfig

Source = Literal["engine", "recompute", "live"]


def old_logprob_source(config: TrainConfig, objective: Objective, batch: Batch, *, engine_is_exact: bool) -> Source:
    """Return the source that `loop.logp_old` asks for; `auto` is the cheapest one that is exact."""
    asked, is_known = config.loop.logp_old, batch.logp_behaviour is not None
    if asked == "engine" and not is_known:
        raise EngineError("the engine gives no log-probabilities: set loop.logp_old = 'recompute'")
    if asked != "auto":
        return asked
    if engine_is_exact and is_known:
        return "engine"
    return "live" if why_not_live(config, objective) is None else "recompute"


def why_not_live(config: TrainConfig, objective: Objective) -> str | None:
    """Return what reads the old log-probs before the update that would give them; None if nothing does."""
    if config.loop.minibatches_per_step * config.loop.epochs > 1:
        return "a step has several updates, of which all but the first begin with another policy"
    if {"logp_old", "completion_hidden"} & objective.needs:
        return "the objective makes its credit of a pass before it"
    if "reference_logp" in objective.needs or config.kl.place != "off":
        return "the KL to the reference is measured before it"
    if config.engine_correction.level != "off":
        return "engine_correction weighs with them"
    return None


def pending_old_logprobs(batch: Batch) -> PolicyOutputs:
    """Return a placeholder for old log-probs that the update will give.

    It is a meta tensor: it has a shape and no numbers, so code that reads it too early fails.
    """
    return PolicyOutputs(logp=torch.empty(batch.completion_mask.shape, device="meta"))


def resolve_old_logprobs(old: PolicyOutputs, current: PolicyOutputs) -> PolicyOutputs:
    """Replace a placeholder by the log-probs of the update itself, without gradient."""
    return PolicyOutputs(logp=current.logp.detach()) if old.logp.is_meta else old
