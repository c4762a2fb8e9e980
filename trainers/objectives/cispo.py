"""CISPO: every token keeps its gradient, and the clipped ratio only weighs it.

Paper: MiniMax 2025, arXiv 2506.13585, eq. 4 and 5. To be minimised:

    - sg( clip(rho, 1 - clip_low, 1 + clip_high) ) A_i log policy(y_t)
    rho = policy(y_t) / old(y_t),  A_i: the advantage `group`, or another one,  sg: no gradient

Reduction: `token_mean`, the default, is verl's and TRL's: mean over all tokens of the minibatch. The paper's equation
4 is `prompt_mean`: mean over the tokens of a prompt's completions, then over prompts.

Unlike PPO's clip this never drops a token. The paper sets no lower bound (`clip_low = 1` or more is off; verl's example
has 10) and does not state the upper one. The default of 0.2 is verl's example. TRL's documentation has 5, which bounds
the ratio at 5 there; `clip_high = 5` bounds it at 6 here. The first update of a step, where all ratios are 1, is
REINFORCE with GRPO's advantages. There is no KL term (the loop has one).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, by_token, reduced, total
from harness.trainers.objectives.base import removed_options


class Cispo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config:
        clip_low: float = 1.0
        clip_high: float = 0.2
        reduction: Reduction = "token_mean"
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            if min(self.clip_low, self.clip_high) < 0:
                raise ValueError("clip_low and clip_high are distances from a ratio of 1: not negative")

    removed_options = removed_options.GROUP_ADVANTAGE

    config: Config

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        ratio = (current.logp.detach() - old.logp).exp()
        weight = ratio.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        per_token = -weight * by_token(advantages.values) * current.logp
        loss = reduced(per_token, batch, self.config.reduction)
        return LossResult(loss, {"clip_fraction": total(weight != ratio, batch.completion_mask)})


OBJECTIVE = Cispo
