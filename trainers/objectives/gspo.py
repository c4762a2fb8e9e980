"""Group Sequence Policy Optimisation: GRPO whose ratio, clip and loss belong to the whole completion.

Paper: Zheng et al. 2025, arXiv 2507.18071, eq. 5 to 7. To be minimised, mean over completions:

    - min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)
    s_i = ( policy(y_i) / old(y_i) )^(1 / |y_i|),  A_i: the advantage `group`, or another one

The ratio is the geometric mean over tokens, so the clip range is far narrower than a token's. For completions of one
token this is PPO's surrogate. There is no KL term (the loop has one). verl and TRL write it over tokens with a stopped
gradient, which has the same value and gradient as long as all tokens of a completion share one advantage; verl then
bounds the log of the ratio at 10, which only acts where the clip has acted already, or A < 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import ClipConfig, clipped, clipped_surrogate, sequence_mean
from harness.trainers.objectives.base import removed_options
from harness.trainers.objectives.base.policy_gradient import refuse_per_token


class Gspo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config:
        clip_low: float = 3e-4
        clip_high: float = 4e-4
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            ClipConfig(self.clip_low, self.clip_high)  # has the same bounds
            refuse_per_token(self.advantage, "the ratio of a sequence")

    removed_options = removed_options.GROUP_ADVANTAGE

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._clip = ClipConfig(config.clip_low, config.clip_high)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        log_ratio = sequence_mean(current.logp - old.logp, batch.completion_mask)
        surrogate = clipped_surrogate(log_ratio, advantages.values, self.config.clip_low, self.config.clip_high)
        stopped = clipped(log_ratio.detach(), advantages.values, self._clip)
        metrics = {"clip_fraction": (float(stopped.sum()), float(len(stopped)))}
        ratios = log_ratio.detach().exp()
        return LossResult(-surrogate.sum() / batch.totals.n_completions, metrics, ratios)


OBJECTIVE = Gspo
