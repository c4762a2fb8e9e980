"""REINFORCE Leave-One-Out: each completion's baseline is the mean reward of the rest of its group.

Paper: Ahmadian et al. 2024, arXiv 2402.14740. To be minimised, mean over completions:

    - ( r_i - mean_{j != i} r_j ) sum_t log policy(y_t)

It is `reinforce` with the advantage `leave_one_out`: REINFORCE with the group's mean as baseline, times G / (G - 1),
for G completions of a prompt.

The paper subtracts the KL to the reference from the reward: that is the loop's `kl.place = "reward"`. Where a step
makes several updates, `surrogate = "clipped"` is verl's form (a clipped ratio of each token, with `reduction =
"token_mean"`); TRL clips the ratio of the whole sequence instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.config import parse_plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.objectives.base.policy_gradient import PolicyGradientConfig, policy_gradient, requirements_of


class Rloo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config(PolicyGradientConfig):
        pass

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, parse_plugin("advantages", "leave_one_out").build())
        self.requires |= requirements_of(config)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        return policy_gradient(batch, current, old, advantages.values, self.config)


OBJECTIVE = Rloo
