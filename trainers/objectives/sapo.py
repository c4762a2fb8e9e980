"""SAPO: a smooth gate on each token's ratio in the place of PPO's clip.

Paper: Gao et al. 2025, arXiv 2511.20347, eq. 5 and 6. To be minimised, mean over tokens and then over completions:

    - 4/tau * sigmoid( tau (rho - 1) ) A_i,  tau = tau_positive where A_i > 0, else tau_negative
    rho = policy(y_t) / old(y_t),  A_i: the advantage `group`, or another one

At rho = 1 the gradient is PPO's; it fades on both sides of 1, the faster the larger tau is. The defaults 1 and 1.05 are
the paper's, and those of verl and TRL. verl bounds log rho at 20 on both sides, which acts where the gate is closed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, by_token, reduced, total


class Sapo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config:
        tau_positive: float = 1.0
        tau_negative: float = 1.05
        reduction: Reduction = "sequence_mean"
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            if min(self.tau_positive, self.tau_negative) <= 0:
                raise ValueError("tau_positive and tau_negative must be above 0")

    config: Config

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        weights, ratio = by_token(advantages.values), (current.logp - old.logp).exp()
        tau = torch.full_like(weights, self.config.tau_positive).where(weights > 0, self.config.tau_negative)
        openness = torch.sigmoid(tau * (ratio - 1))
        loss = reduced(-4 / tau * openness * weights, batch, self.config.reduction)
        slope = 4 * openness * (1 - openness)  # of the gate, 1 at a ratio of 1
        return LossResult(loss, {"gate_slope": total(slope, batch.completion_mask)})


OBJECTIVE = Sapo
