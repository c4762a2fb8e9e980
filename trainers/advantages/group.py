"""GRPO's advantage: the reward, normalised to mean 0 and standard deviation 1 within the group.

Paper: Shao et al. 2024, arXiv 2402.03300, section 4.1.2. For the G completions of a prompt:

    A_i = ( r_i - mean r ) / ( std r + eps )

The paper leaves open which standard deviation and which eps: here the sample one (n - 1) and 1e-6, as in verl.

Edge cases: a group of equal rewards, all right or none, has A = 0, and so has a group of one (verl gives it the reward
itself). In a group of binary rewards the size of A grows without bound as the group becomes nearly all right or nearly
all wrong: one right of G has A = (G - 1) / sqrt(G).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.core.protocols import Advantage
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.functional import group_normalise


class Group(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        eps: float = 1e-6

        def __post_init__(self) -> None:
            if self.eps < 0:
                raise ValueError("eps must not be negative")

    config: Config

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        return group_normalise(batch.rewards, batch.group_ids, eps=self.config.eps)


ADVANTAGE = Group
