"""Geometric-Mean Policy Optimisation: the geometric mean of a completion's clipped token ratios, times its advantage.

Paper: Zhao et al. 2025, arXiv 2507.20673. To be minimised, mean over completions:

    - A_i * exp( 1/|y_i| sum_t c_t )
    c_t = min(l_t, clip(l_t, -clip_low, clip_high)) where A_i > 0, max(...) where A_i < 0
    l_t = log policy(y_t) - log old(y_t),  A_i: the advantage `group`, or another one

The clip bounds the logarithm of each token's ratio, on the side that the advantage favours. The default of 0.4 is the
paper's (ratios from e^-0.4 to e^0.4). There is no KL term (the loop has one). Here, as in verl, the mean is over |y_i|
tokens; the authors' first code divides by the longest completion in its variant without length normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import sequence_mean, total
from harness.trainers.objectives.base import removed_options
from harness.trainers.objectives.base.policy_gradient import refuse_per_token


class Gmpo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config:
        clip_low: float = 0.4
        clip_high: float = 0.4
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            refuse_per_token(self.advantage, "the geometric mean of a completion's ratios")
            if min(self.clip_low, self.clip_high) < 0:
                raise ValueError("clip_low and clip_high are distances from a log-ratio of 0: not negative")

    removed_options = removed_options.GROUP_ADVANTAGE

    config: Config

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        log_ratio, mask = current.logp - old.logp, batch.completion_mask
        near = log_ratio.clamp(-self.config.clip_low, self.config.clip_high)
        is_rewarded = (advantages.values > 0)[:, None]
        kept = torch.where(is_rewarded, torch.minimum(log_ratio, near), torch.maximum(log_ratio, near))
        loss = -(advantages.values * sequence_mean(kept, mask).exp()).sum() / batch.totals.n_completions
        return LossResult(loss, {"clip_fraction": total(kept != log_ratio, mask)})


OBJECTIVE = Gmpo
