"""CISPO: every token keeps its gradient, and the clipped ratio only weighs it.

Paper: MiniMax 2025, arXiv 2506.13585, eq. 4 and 5. To be minimised, mean over the tokens of the minibatch:

    - sg( clip(rho, 1 - clip_low, 1 + clip_high) ) A_i log policy(y_t)
    rho = policy(y_t) / old(y_t),  A_i = (r_i - mean r) / (std r + eps),  sg: no gradient

Unlike PPO's clip this never drops a token. The paper sets no lower bound (`clip_low = 1` or more is off; verl's example
has 10) and does not state the upper one. The default of 0.2 is verl's example. TRL's documentation has 5, which bounds
the ratio at 5 there; `clip_high = 5` bounds it at 6 here. The first update of a step, where all ratios are 1, is
REINFORCE with GRPO's advantages. There is no KL term (the loop has one).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.protocols import Objective, Requirement
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, reduced, total
from harness.trainers.objectives.base.policy_gradient import GroupAdvantageConfig, group_advantages


class Cispo(Objective):
    @dataclass(frozen=True, slots=True)
    class Config(GroupAdvantageConfig):
        clip_low: float = 1.0
        clip_high: float = 0.2
        reduction: Reduction = "token_mean"

        def __post_init__(self) -> None:
            GroupAdvantageConfig.__post_init__(self)
            if min(self.clip_low, self.clip_high) < 0:
                raise ValueError("clip_low and clip_high are distances from a ratio of 1: not negative")

    requires: frozenset[Requirement] = frozenset({"group"})

    config: Config

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:  # noqa: ARG002
        return group_advantages(batch, self.config)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        ratio = (current.logp.detach() - old.logp).exp()
        weight = ratio.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        per_token = -weight * advantages.values[:, None] * current.logp
        loss = reduced(per_token, batch.completion_mask, batch.totals, self.config.reduction)
        return LossResult(loss, {"clip_fraction": total(weight != ratio, batch.completion_mask)})


OBJECTIVE = Cispo
