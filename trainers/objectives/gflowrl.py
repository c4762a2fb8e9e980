"""GFlowRL: FlowRL with the group's own estimate of log Z, a clipped flow gap, and a weight capped from above.

Paper: arXiv 2607.13394, eq. 4 to 6. To be minimised, mean over completions of a minibatch:

    w ( g~ + 1/|y| log( policy(y) / old(y) ) )^2
    g~ = clip( log Z^ + 1/|y| log( old(y) / reference(y) ) - beta r_hat, -gap_low, gap_high )
    log Z^ = mean over the group of [ beta r_hat + 1/|y| log( reference(y) / old(y) ) ],  no gradient
    w = min( policy(y) / old(y), weight_cap ),  no gradient, the ratio of whole sequences

`old` is the policy before the step. Only the second term of the square has a gradient. Without the clip this is
FlowRL's residual with the group's mean as log Z (`flowrl_ablation` with `log_z = "group_mean"`).

The paper contradicts itself: its log Z^ sums over tokens, its gap takes means. `reading` chooses:

    printed   log Z^ without its 1/|y|, as in eq. 4; the gaps of a group do not sum to zero, and a difference between
              engine and trainer of 2e-3 nats a token moves all of them
    both      as above; the default. A completion's target is reference exp(|y| beta r_hat), as FlowRL's
    none      without any 1/|y|. Where no gap is clipped and `normalise_by_std` is off, the fixed point is exactly
              policy = reference exp(beta r) / Z

The gap is the sum of a reward part, mean(beta r_hat) - beta r_hat, and a drift part, from log(reference / old). Their
mean sizes are in the step record as `gap_reward` and `gap_drift`, next to the share of gaps at a bound, `gap_clipped`:
drift over reward goes with 1/beta^2, so beta is chosen by it, and not by the share at a bound. A group of equal rewards
has drift only.

Taken from summaries of the paper, since no code was published when this was written: beta = 8 (flat from 1 to 10),
groups of 16 and the weight's cap of 2 are the paper's; that r_hat is the group's z-score as in FlowRL is our reading.
We do not know the paper's bounds of the gap: 1 on both sides bounds the pull of right and wrong answers alike, at one
nat. Recipes: `countdown-gflowrl`, `countdown-gflowrl_printed`, `countdown-gflowrl_sums`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Need, Objective, Requirement
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import (
    group_normalise,
    log_z_errors,
    log_z_estimates,
    sequence_mean,
    sequence_sum,
    summed,
)


class GFlowRL(Objective):
    @dataclass(frozen=True, slots=True)
    class Config:
        beta: float = 8.0
        gap_low: float = 1.0
        gap_high: float = 1.0
        weight_cap: float = 2.0
        normalise_by_std: bool = True
        reading: Literal["printed", "both", "none"] = "both"

        def __post_init__(self) -> None:
            if min(self.beta, self.gap_low, self.gap_high, self.weight_cap) <= 0:
                raise ValueError("beta, gap_low, gap_high and weight_cap must be above 0")

    needs: frozenset[Need] = frozenset({"logp_old", "reference_logp"})
    requires: frozenset[Requirement] = frozenset({"group"})

    config: Config

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        """Return the clipped flow gap of each completion."""
        assert old.logp_reference is not None
        config, log_ratio, mask = self.config, old.logp_reference - old.logp, batch.completion_mask
        score = group_normalise(batch.rewards, batch.group_ids, by_std=config.normalise_by_std)
        of_z = (sequence_mean if config.reading == "both" else sequence_sum)(log_ratio, mask)
        estimates = log_z_estimates(config.beta * score + of_z, batch.group_ids)
        gap = estimates["log_z_target"] - self.per_sequence(log_ratio, batch) - config.beta * score
        clipped = gap.clamp(-config.gap_low, config.gap_high)
        return Advantages(clipped, {**estimates, "gap": gap, "gap_reward": -config.beta * score})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        log_ratio, extra = current.logp - old.logp, advantages.extra
        ratio = sequence_sum(log_ratio, batch.completion_mask).detach().exp()
        weight = ratio.clamp(max=self.config.weight_cap)
        residual = advantages.values + self.per_sequence(log_ratio, batch)
        length = 1 if self.config.reading == "none" else batch.completion_lengths
        metrics = summed(
            **log_z_errors(extra["log_z_target"], extra),
            importance_weight=weight,
            weight_clipped=(weight != ratio).double(),
            gap_clipped=(advantages.values != extra["gap"]).double(),
            gap_reward=extra["gap_reward"].abs(),
            gap_drift=(extra["gap"] - extra["gap_reward"]).abs(),
            effective_temperature=(self.config.beta * length * weight.new_ones(weight.shape)).reciprocal(),
        )
        return LossResult((weight * residual.square()).sum() / batch.totals.n_completions, metrics, ratio)

    def per_sequence(self, per_token: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the tokens of each completion, or the sum in the reading without |y|. (B, T) -> (B,)"""
        return (sequence_sum if self.config.reading == "none" else sequence_mean)(per_token, batch.completion_mask)


OBJECTIVE = GFlowRL
