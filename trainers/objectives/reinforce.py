"""REINFORCE: the log-likelihood of a completion, times how much better than a baseline it did.

Paper: Williams 1992, Machine Learning 8. To be minimised, mean over completions:

    - A_i sum_t log policy(y_t)

A_i is the advantage `baseline`, the reward less the running mean of the rewards of earlier steps, or another one.

The estimate is exact for one update a step. For several, `surrogate = "clipped"` is PPO's surrogate, as in most
libraries under this name.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.objectives.base import removed_options
from harness.trainers.objectives.base.policy_gradient import PolicyGradientConfig, policy_gradient, requirements_of


class Reinforce(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config(PolicyGradientConfig):
        advantage: PluginChoice = plugin("advantages", default="baseline")

    removed_options = removed_options.REINFORCE

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.requires |= requirements_of(config)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        return policy_gradient(batch, current, old, advantages.values, self.config)


OBJECTIVE = Reinforce
