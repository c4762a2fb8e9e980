"""Unlikeliness reward: right completions earn less the more probable they were, then GRPO's advantage.

Paper: He et al. 2025, arXiv 2506.02355. For the G completions of a prompt with rewards in [0, 1]:

    A = GRPO's advantage of  r_i * ( 1 - beta * (G - rank_i) / G )
    rank_i = how many completions of the group have a larger probability under the old policy: 0 for the most probable

beta = 0.25 is the paper's. It also finds that more PPO epochs (`loop.epochs`) have a similar effect.

`form = "release"` is the authors' code (github.com/AndreHe02/rewarding-unlikely-release, `_compute_advantages` of
verl/trainer/ppo/ray_lean_trainer.py): G - 1 - rank_i in the place of G - rank_i, so that the least probable completion
keeps its reward, and ranks by the mean log-prob of a token and not by the completion's. A re-implementation elsewhere
multiplies by 1 + beta rank_i / G with beta = 0.5.

Edge cases: no right completion: A = 0. All right: the rewards still differ, and so A is not 0; a group of equal rewards
teaches here. Equal probabilities share the mean of their ranks. Group of one: A = 0.

Recipe: `countdown-unlikeliness`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.core.protocols import Advantage, Need, Requirement
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.advantages.base.right import unit_rewards
from harness.trainers.functional import group_normalise, group_ranks, group_sum, sequence_mean, sequence_sum


class Unlikeliness(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        beta: float = 0.25
        form: Literal["paper", "release"] = "paper"

        def __post_init__(self) -> None:
            if not 0 < self.beta <= 1:
                raise ValueError("beta must lie in (0, 1]: it is the share of the reward that the most probable loses")

    needs: frozenset[Need] = frozenset({"logp_old"})
    requires: frozenset[Requirement] = frozenset({"group", "unit_rewards"})

    config: Config

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:
        rewards, ids, is_paper = unit_rewards(batch), batch.group_ids, self.config.form == "paper"
        logp = (sequence_sum if is_paper else sequence_mean)(old.logp, batch.completion_mask)
        size = group_sum(torch.ones_like(rewards), ids)
        n_less_likely = size - group_ranks(logp, ids) - (0 if is_paper else 1)  # (B,)
        return group_normalise(rewards * (1 - self.config.beta * n_less_likely / size), ids)


ADVANTAGE = Unlikeliness
