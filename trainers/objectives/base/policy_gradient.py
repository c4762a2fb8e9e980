"""Parts that the policy-gradient objectives share: the choice of an advantage, and two losses given advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from harness.core.config import PluginChoice
from harness.core.protocols import Advantage, Objective, Requirement
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, clipped_surrogate, reduced, total


class PolicyGradient(Objective):
    """Base of objectives whose advantages are a plug-in's, and whose loss is made of them and of ratios."""

    advantage: Advantage

    def __init__(self, config: Any, advantage: PluginChoice | None = None) -> None:
        """Build the advantage: that of the config's option `advantage`, unless one is given."""
        self.config = config
        self.advantage = (advantage if advantage is not None else config.advantage).build()
        self.needs = self.advantage.needs
        self.requires = self.advantage.requires

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        return Advantages(self.advantage.compute(batch, old), {})

    def state_dict(self) -> Mapping[str, Any]:
        return self.advantage.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.advantage.load_state_dict(state)


def refuse_per_token(advantage: PluginChoice, ratio: str) -> None:
    """Raise ValueError for an advantage that tokens differ in, which one ratio for a completion can't take."""
    if advantage.build().per_token:
        raise ValueError(
            f"advantage.id = {advantage.id!r} gives an advantage to each token, and {ratio} is one number for a "
            "completion: choose another advantage, or objective.id = 'grpo'"
        )


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
