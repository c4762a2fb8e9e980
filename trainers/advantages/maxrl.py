"""MaxRL's advantage: the reward less the mean of the group, divided by that mean.

Paper: Tajwar et al. 2026, arXiv 2602.02710. For the G completions of a prompt with rewards in [0, 1]:

    A_i = ( r_i - mean r ) / ( mean r + eps ),  and A_i = 0 where no completion is right

The likelihood of a right answer has the gradient grad log p = sum_k (1/k) grad pass@k, k = 1, 2, ... Without its
baseline the estimate is `centred = false`,

    A_i = r_i / ( mean r + eps )

the mean score of the right completions, whose expectation is that sum up to k = G exactly (for binary rewards and
eps = 0). With the baseline, which a group without a right completion does not have, it is the sum up to k = G - 1. Both
are held against the exact gradient of an enumerable bandit in the tests.

eps = 1e-6 is the authors' (github.com/tajwarfahim/maxrl, verl/trainer/ppo/core_algos.py, "maxrl"; `centred = false` is
the "conditional expectation" of the paper). Their code gives a group of one the advantage r / eps, a million.

Edge cases: no right completion: A = 0. All right: A = 0 (`centred = false`: 1). Group of one: A = 0. One right of G:
A = G - 1, where GRPO has (G - 1) / sqrt(G): hard problems weigh more.

Recipe: `countdown-maxrl`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.core.protocols import Advantage, Requirement
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.advantages.base.right import unit_rewards
from harness.trainers.functional import group_mean, group_normalise


class MaxRL(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        centred: bool = True
        eps: float = 1e-6

        def __post_init__(self) -> None:
            if self.eps <= 0:
                raise ValueError("eps must be above 0: a group without a right completion is divided by it")

    requires: frozenset[Requirement] = frozenset({"group", "unit_rewards"})

    config: Config

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        rewards = unit_rewards(batch)
        numerator = group_normalise(rewards, batch.group_ids, by_std=False) if self.config.centred else rewards
        return numerator / (group_mean(rewards, batch.group_ids) + self.config.eps)


ADVANTAGE = MaxRL
