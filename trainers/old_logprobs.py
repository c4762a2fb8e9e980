"""Where the log-probabilities before a step come from: the engine, a pass of the policy, or the step's one update.

A single update begins with the policy as it was. Its own log-probabilities, without gradient, are then those before the
step, every ratio is exactly 1 with the gradient of the ratio, and no pass has to be made for them.
"""

from __future__ import annotations

from typing import Literal

import torch

from harness.core.errors import EngineError
from harness.core.protocols import Objective
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.config import TrainConfig

Source = Literal["engine", "recompute", "live"]


def source_of_logp_old(config: TrainConfig, objective: Objective, batch: Batch, *, engine_is_exact: bool) -> Source:
    """As the settings have it; `auto` takes what costs nothing where it is exact."""
    asked, is_known = config.loop.logp_old, batch.logp_behaviour is not None
    if asked == "engine" and not is_known:
        raise EngineError("the engine gives no log-probabilities: set loop.logp_old = 'recompute'")
    if asked != "auto":
        return asked
    if engine_is_exact and is_known:
        return "engine"
    return "live" if why_not_live(config, objective) is None else "recompute"


def why_not_live(config: TrainConfig, objective: Objective) -> str | None:
    """Who reads the log-probabilities before the update that would give them; None where nobody does."""
    if config.loop.minibatches_per_step * config.loop.epochs > 1:
        return "a step has several updates, of which all but the first begin with another policy"
    if {"logp_old", "completion_hidden"} & objective.needs:
        return "the objective makes its credit of a pass before it"
    if "reference_logp" in objective.needs or config.kl.place != "off":
        return "the KL to the reference is measured before it"
    if config.engine_correction.level != "off":
        return "engine_correction weighs with them"
    return None


def not_yet(batch: Batch) -> PolicyOutputs:
    """Stands for log-probabilities that the update will give. It has a shape and no numbers: who reads it, fails."""
    return PolicyOutputs(logp=torch.empty(batch.completion_mask.shape, device="meta"))


def now(old: PolicyOutputs, current: PolicyOutputs) -> PolicyOutputs:
    """`old` with the log-probabilities that were not yet there, if they were not."""
    if not old.logp.is_meta:
        return old
    return PolicyOutputs(logp=current.logp.detach())
