"""The two policy-gradient losses that differ between objectives only in their advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Need
from harness.core.training import Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, clipped_surrogate, reduced, total


@dataclass(frozen=True, slots=True)
class Clip:
    """How far one step's updates may move a token's ratio before its gradient stops."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    reduction: Reduction = "token_mean"

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise ValueError("clip_low must lie in [0, 1] (1 is off), and clip_high must not be negative")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError("dual_clip must be above 1")


@dataclass(frozen=True, slots=True)
class Score(Clip):
    """`score` is A log policy, exact for one update a step; `clipped` is for several."""

    reduction: Reduction = "sequence_sum"
    surrogate: Literal["score", "clipped"] = "score"

    def __post_init__(self) -> None:
        Clip.__post_init__(self)
        clip, default = Clip(self.clip_low, self.clip_high, self.dual_clip), Clip()
        if self.surrogate == "score" and clip != default:
            raise ValueError("clip_low, clip_high and dual_clip are of surrogate = 'clipped', and this one is 'score'")


def needs_of(config: Score) -> frozenset[Need]:
    """The score is that of the policy which sampled: without a ratio, a second update on the same completions is
    biased."""
    return frozenset({"on_policy"} if config.surrogate == "score" else set())


def policy_gradient(
    batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, advantages: Tensor, config: Score
) -> LossResult:
    """- A log policy, or the clipped surrogate, reduced. Advantages: (B,) or (B, T)"""
    if config.surrogate == "clipped":
        return clipped_policy_gradient(batch, live, frozen, advantages, config)
    per_token = -live.logp * by_token(advantages)
    return LossResult(reduced(per_token, batch.completion_mask, batch.totals, config.reduction), {})


def clipped_policy_gradient(
    batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, advantages: Tensor, config: Clip
) -> LossResult:
    """PPO's clipped surrogate, negated and reduced. Advantages: (B,) or (B, T)"""
    mask, log_ratio, weights = batch.completion_mask, live.logp - frozen.logp, by_token(advantages)
    per_token = -clipped_surrogate(log_ratio, weights, config.clip_low, config.clip_high, config.dual_clip)
    loss = reduced(per_token, mask, batch.totals, config.reduction)
    return LossResult(loss, {"clip_fraction": total(clipped(log_ratio.detach(), weights, config), mask)})


def clipped(log_ratio: Tensor, advantages: Tensor, config: Clip) -> Tensor:
    """Where the clip took the gradient away."""
    ratio = log_ratio.exp()
    above = (ratio > 1 + config.clip_high) & (advantages > 0)
    below = (ratio < 1 - config.clip_low) & (advantages < 0)
    return above | below


def by_token(weights: Tensor) -> Tensor:
    """Credit of completions stretched over their tokens; that of tokens as it is. (B,) or (B, T) -> (B, 1) or (B, T)"""
    return weights if weights.dim() == 2 else weights[:, None]
