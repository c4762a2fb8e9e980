"""DPPO: a trust region on the probability of a token, and not on its ratio.

Paper: Qi et al. 2026, arXiv 2602.04879, the variant with the total variation of one token. To be minimised, mean over
the tokens of the minibatch:

    - m_t * sg( min(rho, ratio_cap) ) A_i log policy(y_t)
    m_t = 1 where policy(y_t) - old(y_t) <= divergence_high (A_i > 0) or >= -divergence_low (else), and 0 beyond
    rho = policy(y_t) / old(y_t),  A_i: the advantage `group`, or another one,  sg: no gradient

PPO's clip stops rare tokens, whose ratios are large at once, and lets likely ones go far. Here a token stops when its
probability has moved by the threshold. It is verl's `dppo_tv`, whose `clip_ratio` of 0.2 is the default of both
thresholds and whose cap of the ratio is 20. The variants with a KL (`dppo_kl`) and of the top K tokens are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, by_token, reduced, total


class Dppo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config:
        divergence_low: float = 0.2
        divergence_high: float = 0.2
        ratio_cap: float = 20.0
        reduction: Reduction = "token_mean"
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            if not (0 <= self.divergence_low <= 1 and 0 <= self.divergence_high <= 1):
                raise ValueError("divergence_low and divergence_high are differences of probabilities, in [0, 1]")
            if self.ratio_cap <= 0:
                raise ValueError("ratio_cap must be above 0")

    config: Config

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        weights, config = by_token(advantages.values), self.config
        logp = current.logp.detach()
        moved, ratio = logp.exp() - old.logp.exp(), (logp - old.logp).exp()
        is_near = torch.where(weights > 0, moved <= config.divergence_high, moved >= -config.divergence_low)
        per_token = -weights * is_near * ratio.clamp(max=config.ratio_cap) * current.logp
        loss = reduced(per_token, batch, config.reduction)
        return LossResult(loss, {"clip_fraction": total(~is_near, batch.completion_mask)})


OBJECTIVE = Dppo
