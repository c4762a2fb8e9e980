"""KL-Cov: a policy gradient with a penalty on the tokens that would lower the entropy most.

Paper: Cui et al. 2025, arXiv 2505.22617, section 4. To be minimised, mean over the tokens of the minibatch:

    - rho A_i + coefficient |log rho| k_t,  rho = policy(y_t) / old(y_t)
    cov_t = (A_i - mean A) (log old(y_t) - mean log old),  means over all tokens of the step
    k_t = 1 for the share `share` of all tokens with the largest cov_t, else 0

There is no clip: the penalty is what bounds a step. The defaults, a share of 2e-4 (one token at least) and a
coefficient of 1, are verl's. In the first update of a step rho is 1 and the penalty has no gradient.

One difference from the authors' code and verl's: there the covariance is of the current policy within a micro-batch;
here of the old policy over the whole step, as in `clip_cov`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, by_token, reduced, total
from harness.trainers.objectives.base.covariance import n_marked, token_covariance


class KlCov(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config:
        share: float = 2e-4
        coefficient: float = 1.0
        reduction: Reduction = "token_mean"
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            if not 0 < self.share <= 1 or self.coefficient <= 0:
                raise ValueError("share must lie in (0, 1], and coefficient be above 0")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.needs |= {"logp_old"}

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        values, mask = super().advantages(batch, old).values, batch.completion_mask
        covariance = token_covariance(values, old.logp, mask).masked_fill(~mask, -torch.inf)
        largest = covariance.flatten().topk(n_marked(self.config.share, mask)).indices
        marked = torch.zeros_like(mask).flatten().index_fill(0, largest, True).view(mask.shape)
        weights = torch.where(covariance.isnan(), covariance, by_token(values))  # so that it does not go unseen
        return Advantages(weights, {"is_marked": marked})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        log_ratio, marked = current.logp - old.logp, advantages.extra["is_marked"]
        penalty = self.config.coefficient * log_ratio.abs() * marked
        per_token = -log_ratio.exp() * by_token(advantages.values) + penalty
        loss = reduced(per_token, batch, self.config.reduction)
        return LossResult(loss, {"tokens_marked": total(marked, batch.completion_mask)})


OBJECTIVE = KlCov
