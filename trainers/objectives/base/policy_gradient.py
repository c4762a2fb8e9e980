"""Parts that policy-gradient objectives share: which advantages they refuse, and the choice of a surrogate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.config import PluginChoice
from harness.core.protocols import Requirement
from harness.core.tensors import Batch, LossResult, PolicyOutputs
from harness.trainers.functional import ClipConfig, Reduction, by_token, clipped_policy_gradient, reduced


def refuse_per_token(advantage: PluginChoice, ratio: str) -> None:
    """Raise ValueError for an advantage that tokens differ in, which one ratio for a completion can't take."""
    if advantage.build().per_token:
        raise ValueError(
            f"advantage.id = {advantage.id!r} gives an advantage to each token, and {ratio} is one number for a "
            "completion: choose another advantage, or objective.id = 'grpo'"
        )


@dataclass(frozen=True, slots=True)
class PolicyGradientConfig(ClipConfig):
    """Choice of surrogate: `score` is A log policy, exact for one update a step; `clipped` allows several."""

    reduction: Reduction = "sequence_sum"
    surrogate: Literal["score", "clipped"] = "score"

    def __post_init__(self) -> None:
        ClipConfig.__post_init__(self)
        clip, default = ClipConfig(self.clip_low, self.clip_high, self.dual_clip), ClipConfig()
        if self.surrogate == "score" and clip != default:
            raise ValueError("clip_low, clip_high and dual_clip are of surrogate = 'clipped', and this one is 'score'")


def requirements_of(config: PolicyGradientConfig) -> frozenset[Requirement]:
    """Return `on_policy` for the score surrogate: without a ratio, a second update on the completions is biased."""
    return frozenset({"on_policy"} if config.surrogate == "score" else set())


def policy_gradient(
    batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Tensor, config: PolicyGradientConfig
) -> LossResult:
    """Return - A log policy, or the clipped surrogate, reduced. Advantages: (B,) or (B, T)"""
    if config.surrogate == "clipped":
        return clipped_policy_gradient(batch, current, old, advantages, config)
    per_token = -current.logp * by_token(advantages)
    return LossResult(reduced(per_token, batch, config.reduction), {})
