"""Parts that the policy-gradient objectives share: group advantages, and two losses given advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Requirement
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, clipped_surrogate, group_normalise, reduced, total


@dataclass(frozen=True, slots=True)
class GroupAdvantageConfig:
    """A = (r - mean r) / (std r + std_eps) within the group, with the sample standard deviation; or A = r - mean r."""

    normalise_by_std: bool = True
    std_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.std_eps < 0:
            raise ValueError("std_eps must not be negative")


def group_advantages(batch: Batch, config: GroupAdvantageConfig) -> Advantages:
    """Return GRPO's advantages, one per completion."""
    values = group_normalise(batch.rewards, batch.group_ids, by_std=config.normalise_by_std, eps=config.std_eps)
    return Advantages(values, {})


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Bounds of a token's ratio, beyond which PPO's surrogate has no gradient."""

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
    return LossResult(reduced(per_token, batch.completion_mask, batch.totals, config.reduction), {})


def clipped_policy_gradient(
    batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Tensor, config: ClipConfig
) -> LossResult:
    """Return PPO's clipped surrogate, negated and reduced. Advantages: (B,) or (B, T)"""
    mask, log_ratio, weights = batch.completion_mask, current.logp - old.logp, by_token(advantages)
    per_token = -clipped_surrogate(log_ratio, weights, config.clip_low, config.clip_high, config.dual_clip)
    loss = reduced(per_token, mask, batch.totals, config.reduction)
    return LossResult(loss, {"clip_fraction": total(clipped(log_ratio.detach(), weights, config), mask)})


def clipped(log_ratio: Tensor, advantages: Tensor, config: ClipConfig) -> Tensor:
    """Mark where the clip removed the gradient."""
    ratio = log_ratio.exp()
    above = (ratio > 1 + config.clip_high) & (advantages > 0)
    below = (ratio < 1 - config.clip_low) & (advantages < 0)
    return above | below


def by_token(advantages: Tensor) -> Tensor:
    """Broadcast per-completion advantages over tokens; per-token ones stay. (B,) or (B, T) -> (B, 1) or (B, T)"""
    return advantages if advantages.dim() == 2 else advantages[:, None]
