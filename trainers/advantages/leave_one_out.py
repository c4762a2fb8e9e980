"""RLOO's advantage: the reward less the mean reward of the other completions of the group.

Paper: Ahmadian et al. 2024, arXiv 2402.14740, after Kool et al. 2019. For the G completions of a prompt:

    A_i = r_i - mean_{j != i} r_j  =  G / (G - 1) * ( r_i - mean r )

The baseline does not contain the completion's own reward, so the gradient of the expected reward is unbiased.

Edge cases: a group of equal rewards has A = 0. A group of one has no others, and A = 0.
"""

from __future__ import annotations

from torch import Tensor

from harness.core.protocols import Advantage
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.functional import leave_one_out


class LeaveOneOut(Advantage):
    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        return leave_one_out(batch.rewards, batch.group_ids)


ADVANTAGE = LeaveOneOut
