"""Clip-Cov: PPO's clipped surrogate without the gradient of some tokens that would lower the entropy most.

Paper: Cui et al. 2025, arXiv 2505.22617, section 4. To be minimised, mean over the tokens of the minibatch:

    - k_t min(rho A_i, clip(rho, 1 - clip_low, 1 + clip_high) A_i)
    cov_t = (A_i - mean A) (log old(y_t) - mean log old),  means over all tokens of the step
    k_t = 0 for a share `share` of all tokens, drawn at random among those with cov_low < cov_t < cov_high, else 1

The change of the entropy is minus the covariance of advantage and log-probability, and few tokens make most of it. The
defaults, a share of 2e-4 (one token at least) and bounds of 1 and 5, are verl's.

One difference from the authors' code and verl's: there the covariance is of the current policy within a micro-batch,
and tokens that PPO's clip has stopped are not drawn. Here it is of the old policy over the whole step, so that the
gradient does not depend on how a minibatch is cut. Both agree in the first update of a step that is one micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import ClipConfig, by_token, clipped_policy_gradient, total
from harness.trainers.objectives.base.covariance import n_marked, token_covariance


class ClipCov(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config(ClipConfig):
        share: float = 2e-4
        cov_low: float = 1.0
        cov_high: float = 5.0
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            ClipConfig.__post_init__(self)
            if not 0 < self.share <= 1 or self.cov_low >= self.cov_high:
                raise ValueError("share must lie in (0, 1], and cov_low be below cov_high")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.needs |= {"logp_old"}

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        values, mask = super().advantages(batch, old).values, batch.completion_mask
        covariance = token_covariance(values, old.logp, mask)
        is_candidate = mask & (covariance > self.config.cov_low) & (covariance < self.config.cov_high)
        places = is_candidate.flatten().nonzero()[:, 0]
        drawn = places[torch.randperm(len(places)).to(places.device)[: n_marked(self.config.share, mask)]]
        kept = torch.ones_like(mask).flatten().index_fill(0, drawn, False).view(mask.shape)
        weights = torch.where(covariance.isnan(), covariance, by_token(values) * kept)  # so that it does not go unseen
        return Advantages(weights, {"is_kept": kept})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        result = clipped_policy_gradient(batch, current, old, advantages.values, self.config)
        dropped = total(~advantages.extra["is_kept"], batch.completion_mask)
        return LossResult(result.loss, {**result.metrics, "tokens_marked": dropped})


OBJECTIVE = ClipCov
