"""UCPO's advantage: GRPO's, with the credit of a group's right completions moved towards the less probable ones.

Paper: Lochab et al. 2026, arXiv 2605.00365. For the G completions of a prompt, c of them right (r > 0):

    A_i = A^GRPO_i * c * ( (1 - tau) / c + tau * (1/q_i) / sum_j (1/q_j) )        of a right completion
    A_i = A^GRPO_i                                                                of a wrong one
    q = the probability under the old policy, normalised over the group's right completions, at least 1e-6

The weights of a group's right completions have the mean 1, so that their total credit is kept where their rewards are
equal. tau = 0 is GRPO; with tau = 1 the credit is inversely proportional to the probability, so that a right answer
which is drawn twice as often gets half the credit each time.

`q = "sequence"` takes the probability of the whole completion, as the paper has it. `q = "mean"` takes the geometric
mean over its tokens, as the authors released it (github.com/AnamikaLochab/UCPO, verl/verl/trainer/ppo/core_algos.py,
`compute_dgrpo_advantage_outcome_invq_l`, run with tau = 0.2). Such means differ little between right completions: where
they differ by 0.1 nat, the weights at tau = 0.2 differ by 2 %. Their GRPO adds 1e-8 to the standard deviation; here it
is 1e-6.

Edge cases: one right completion, or none: GRPO's. All right: A = 0 as in GRPO. Equal probabilities: GRPO's. Right
completions of another reward than 1 share the weights, each times its own advantage.

Recipes: `countdown-ucpo`, and as released `countdown-ucpo_release`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.core.protocols import Advantage, Need
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.functional import group_normalise, group_softmax, group_sum, sequence_mean, sequence_sum


class Ucpo(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        tau: float = 0.2
        q: Literal["sequence", "mean"] = "sequence"

        def __post_init__(self) -> None:
            if not 0 <= self.tau <= 1:
                raise ValueError("tau must lie in [0, 1]: it mixes GRPO's credit with that of inverse probability")

    needs: frozenset[Need] = frozenset({"logp_old"})

    config: Config

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:
        is_right, ids, tau = batch.rewards > 0, batch.group_ids, self.config.tau
        logp = (sequence_sum if self.config.q == "sequence" else sequence_mean)(old.logp, batch.completion_mask)
        q = group_softmax(logp.masked_fill(~is_right, -torch.inf), ids).clamp(min=1e-6)  # (B,)
        rarity = torch.where(is_right, 1 / q, 0.0)
        share = rarity / group_sum(rarity, ids).clamp(min=1)  # sums to 1 over the right ones
        weights = 1 - tau + tau * group_sum(is_right.to(share.dtype), ids) * share
        return group_normalise(batch.rewards, ids) * torch.where(is_right, weights, 1.0)


ADVANTAGE = Ucpo
