"""Dr. GRPO's advantage: the reward less the mean of the group, without a standard deviation.

Paper: Liu et al. 2025, arXiv 2503.20783, section 3. For the G completions of a prompt:

    A_i = r_i - mean r

Dividing by the standard deviation, as GRPO does, weighs questions by how nearly all or none of their answers are right.
Without it each question has its own weight: the gradient is (G - 1) / G times that of the expected reward.

Edge cases: a group of equal rewards has A = 0, and so has a group of one.
"""

from __future__ import annotations

from torch import Tensor

from harness.core.protocols import Advantage
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.functional import group_normalise


class Mean(Advantage):
    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        return group_normalise(batch.rewards, batch.group_ids, by_std=False)


ADVANTAGE = Mean
