"""Pass@k training: GRPO's advantage of a completion, averaged over all groups of k that it could be in.

Paper: Chen et al. 2025, arXiv 2508.10751, section 2.3 (analytical derivation). A group of k has the reward 1 if one of
its completions is right. Of the G completions of a prompt, c are right:

    rho = 1 - C(G - c, k) / C(G, k),  sigma = sqrt( rho (1 - rho) ) + eps     mean and deviation of a group's reward
    A = (1 - rho) / sigma                                                       of a right completion
    A = ( 1 - rho - C(G - c - 1, k - 1) / C(G - 1, k - 1) ) / sigma             of a wrong one

eps = 1e-6 is the authors' (github.com/RUCAIBox/Passk_Training, code/passk_adv.py). At least two other methods go by
"pass@k": `pkpo`, and verl's `grpo_passk`.

Edge cases: no right completion: A = 0. More than G - k right: every group of k has one, and A = 0 for right and wrong.
A group that has fewer than k completions, because others could not be graded, has A = 0. With k = 1 it is GRPO's
advantage with the standard deviation of n instead of n - 1.

Recipe: `countdown-pass_at_k`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.protocols import Advantage, Requirement
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.advantages.base.right import combinations_ratio, counts, right


class PassAtK(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        k: int = 4
        eps: float = 1e-6

        def __post_init__(self) -> None:
            if self.k < 1 or self.eps <= 0:
                raise ValueError("k must be at least 1, and eps above 0")

    requires: frozenset[Requirement] = frozenset({"group", "unit_rewards"})

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.least_group = max(2, config.k)

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        is_right, k = right(batch), self.config.k
        n_right, size = counts(is_right, batch.group_ids)
        all_wrong = combinations_ratio(size - n_right, size, k)  # (B,), 1 - rho
        others_wrong = combinations_ratio(size - n_right - 1, size - 1, k - 1)  # (B,), of a wrong completion
        sigma = (all_wrong * (1 - all_wrong)).sqrt() + self.config.eps
        advantages = torch.where(is_right == 1, all_wrong, all_wrong - others_wrong) / sigma
        return torch.where((n_right > 0) & (size >= k), advantages, 0.0)


ADVANTAGE = PassAtK
