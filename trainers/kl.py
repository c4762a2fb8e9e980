"""KL estimators, and the regularisers of every objective: a KL to the reference in the reward or loss, and entropy.

The KL's coefficient is fixed, or follows a target as in Ziegler et al. 2019, arXiv 1909.08593. After each step

    coefficient <- coefficient * (1 + clip(KL / target - 1, -0.2, 0.2) * completions / horizon)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from harness.core.tensors import Batch, LossResult, PolicyOutputs
from harness.trainers.functional import KlEstimator, reduced, sequence_sum, total

if TYPE_CHECKING:
    from harness.trainers.config import KlConfig

LARGEST_ERROR = 0.2


def kl_estimate(logp: Tensor, logp_reference: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate KL(policy || reference) by token from the policy's own samples (Schulman 2020).

    With d = log policy - log reference: `k1` is d, unbiased and noisy; `k2` is d^2 / 2, biased and never negative;
    `k3` is exp(-d) - 1 + d, unbiased and never negative. As losses they differ: the gradient of k1 is zero on average,
    that of k3 is the gradient of another divergence, and that of k2 is the KL's. `k1_plus` and `k3_plus` have the value
    of k1 and k3, and the gradient of k2.
    """
    difference = logp - logp_reference
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return (-difference).exp() - 1 + difference
        case "k1_plus":
            return _value_and_gradient_of(kl_estimate(logp, logp_reference, "k1"), difference.square() / 2)
        case "k3_plus":
            return _value_and_gradient_of(kl_estimate(logp, logp_reference, "k3"), difference.square() / 2)


def _value_and_gradient_of(value: Tensor, gradient: Tensor) -> Tensor:
    return value.detach() + gradient - gradient.detach()


class AdaptiveKl:
    """The KL's settings with the coefficient of the current step; part of a checkpoint."""

    def __init__(self, config: KlConfig) -> None:
        self.config = config

    def adapt(self, kl_to_reference: float, n_completions: int) -> None:
        """Set the coefficient of the next step from the KL of this one."""
        if self.config.target is None:
            return
        error = min(max(kl_to_reference / self.config.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        factor = 1 + error * n_completions / self.config.horizon
        self.config = dataclasses.replace(self.config, coefficient=self.config.coefficient * factor)

    def state_dict(self) -> Mapping[str, Any]:
        return {"coefficient": self.config.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.config = dataclasses.replace(self.config, coefficient=state["coefficient"])


def with_kl_in_reward(batch: Batch, old: PolicyOutputs, kl: KlConfig) -> Batch:
    """Subtract the KL of each token from the reward."""
    assert old.logp_reference is not None
    estimate = kl_estimate(old.logp, old.logp_reference, kl.estimator)
    given = -kl.coefficient * estimate * batch.completion_mask  # (B, T)
    rewards = batch.rewards + sequence_sum(given, batch.completion_mask)
    return dataclasses.replace(batch, rewards=rewards, token_rewards=given)


def with_kl_in_loss(
    result: LossResult, part: Batch, current: PolicyOutputs, old: PolicyOutputs, kl: KlConfig
) -> LossResult:
    """Add the KL to the loss."""
    assert old.logp_reference is not None
    estimate = kl_estimate(current.logp, old.logp_reference, kl.estimator)
    if kl.ratio_weighted:
        estimate = (current.logp - old.logp).exp() * estimate
    loss = result.loss + kl.coefficient * reduced(estimate, part, kl.reduction)
    metrics = {**result.metrics, "kl_loss": total(estimate, part.completion_mask)}
    return dataclasses.replace(result, loss=loss, metrics=metrics)


def with_entropy_bonus(result: LossResult, part: Batch, current: PolicyOutputs, coefficient: float) -> LossResult:
    """Subtract the mean entropy of the token distributions from the loss."""
    assert current.entropy is not None
    loss = result.loss - coefficient * reduced(current.entropy, part, "token_mean")
    metrics = {**result.metrics, "policy_entropy": total(current.entropy, part.completion_mask)}
    return dataclasses.replace(result, loss=loss, metrics=metrics)
