"""GFlowRL: FlowRL with the group's own estimate of log Z, a clipped flow gap, and a weight capped from above.

Paper: arXiv 2607.13394. To be minimised, mean over completions of a minibatch:

    w ( g~ + 1/|y| log( policy(y) / old(y) ) )^2
    g~ = clip( log Z^ + 1/|y| log( old(y) / reference(y) ) - beta r_hat, -gap_low, gap_high )
    log Z^ = mean over the group of [ beta r_hat + 1/|y| log( reference(y) / old(y) ) ],  no gradient
    w = min( policy(y) / old(y), weight_cap ),  no gradient, the ratio of whole sequences

`old` is the policy before the step. Only the second term of the square has a gradient. Without the clip this is
FlowRL's residual with the group's mean as log Z (`flowrl_ablation` with `log_z = "group_mean"`).

Taken from summaries of the paper, since no code was published when this was written: beta = 8 (flat from 1 to 10),
groups of 16 and the weight's cap of 2 are the paper's; that log Z^ is normalised by length like the gap, so that the
gaps of a group sum to zero, and that r_hat is the group's z-score as in FlowRL, are our reading. We do not know the
paper's bounds of the gap: 1 on both sides bounds the pull of right and wrong answers alike, at one nat.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.protocols import Need, Objective, Requirement
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import (
    group_log_mean_exp,
    group_mean,
    group_normalise,
    log_z_errors,
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

        def __post_init__(self) -> None:
            if min(self.beta, self.gap_low, self.gap_high, self.weight_cap) <= 0:
                raise ValueError("beta, gap_low, gap_high and weight_cap must be above 0")

    needs: frozenset[Need] = frozenset({"logp_old", "reference_logp"})
    requires: frozenset[Requirement] = frozenset({"group"})

    config: Config

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        """Return the clipped flow gap of each completion."""
        assert old.logp_reference is not None
        score = group_normalise(batch.rewards, batch.group_ids, by_std=self.config.normalise_by_std)
        unbalanced = sequence_mean(old.logp - old.logp_reference, batch.completion_mask) - self.config.beta * score
        log_z = group_mean(-unbalanced, batch.group_ids)
        gap = log_z + unbalanced
        extra = {"log_z": log_z, "log_z_group": group_log_mean_exp(-unbalanced, batch.group_ids), "gap": gap}
        return Advantages(gap.clamp(-self.config.gap_low, self.config.gap_high), extra)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        mask, log_ratio = batch.completion_mask, current.logp - old.logp
        ratio = sequence_sum(log_ratio, mask).detach().exp()
        weight = ratio.clamp(max=self.config.weight_cap)
        residual = advantages.values + sequence_mean(log_ratio, mask)
        metrics = summed(
            **log_z_errors(advantages.extra["log_z"], advantages.extra["log_z_group"]),
            importance_weight=weight,
            clip_fraction=(weight != ratio).double(),
            gap_clipped=(advantages.values != advantages.extra["gap"]).double(),
        )
        return LossResult((weight * residual.square()).sum() / batch.totals.n_completions, metrics, ratio)


OBJECTIVE = GFlowRL
