"""FlowRL as its authors' recipe for verl has it: the released code with a capped weight and a plain mean.

Paper: Zhu et al. 2025, arXiv 2509.15207. Code: github.com/verl-project/verl-recipe, flowrl/flowrl_actor.py (January
2026). To be minimised, as `flowrl_release` but for:

- w = min( policy(y|x) / old(y|x), cap ), cap = 10. The recipe passes clip ranges and does not use them.
- The reduction: mean over the completions of a minibatch, as in the paper.

Not of the loss, and so settings of the loop: the recipe's script shapes the reward (`[overlong]` with a buffer of 4096
of 8192 tokens and a penalty of 1, for rewards of -1 and 1); paper and release do not. The gradient of a whole update is
held against the published code's own, in tests/trainers/objectives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.core.tensors import Batch
from harness.trainers.objectives.flowrl_release import FlowRLRelease


class FlowRLRecipe(FlowRLRelease):
    @dataclass(frozen=True, slots=True)
    class Config(FlowRLRelease.Config):
        cap: float = 10.0

        def __post_init__(self) -> None:
            FlowRLRelease.Config.__post_init__(self)
            if self.cap <= 0:
                raise ValueError("cap must be above 0")

    config: Config

    def weight(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(max=self.config.cap)

    def mean(self, per_completion: Tensor, batch: Batch) -> Tensor:
        return per_completion.sum() / batch.totals.n_completions


OBJECTIVE = FlowRLRecipe
