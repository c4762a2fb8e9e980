"""FlowRL as its authors released it in September 2025: the code behind the paper, where it differs from the paper.

Paper: Zhu et al. 2025, arXiv 2509.15207. Code: github.com/Xuekai-Zhu/FlowRL, verl@FlowRL, compute_flowrl_objective and
ProjZModule. To be minimised, as `flowrl` but for:

- w = policy(y|x) / old(y|x), unclipped. The code computes the clipped weight and does not use it.
- The reduction: 9 / completions of the minibatch * mean over the completions of a micro-batch. The 9 is the number of
  metrics it logs, in the place of the micro-batch's size. So the gradient depends on `tokens_per_microbatch`, and long
  completions weigh more, since fewer of them fit into a micro-batch.
- log Z reads the prompt without its last token, has dropout, torch's own initialisation and the policy's learning rate,
  weight decay and gradient clip, and its gradient flows into the policy.

The gradient of a whole update is held against the published code's own, in tests/trainers/objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Need
from harness.core.tensors import Batch, ModelShape, PolicyOutputs
from harness.trainers.functional import mean_but_last, released_mean
from harness.trainers.objectives.flowrl import FlowRL


class FlowRLRelease(FlowRL):
    @dataclass(frozen=True, slots=True)
    class Config(FlowRL.Config):
        log_z_dropout: float = 0.1
        log_z_lr: float | Literal["policy"] = "policy"
        log_z_weight_decay: float | Literal["policy"] = "policy"
        log_z_clip: Literal["own", "policy"] = "policy"

        def __post_init__(self) -> None:
            FlowRL.Config.__post_init__(self)
            paper = FlowRL.Config()
            if (self.clip_low, self.clip_high) != (paper.clip_low, paper.clip_high):
                raise ValueError("the authors' code does not use clip_low and clip_high; leave them out")

    needs: frozenset[Need] = FlowRL.needs | {"prompt_last_hidden"}

    def weight(self, ratio: Tensor) -> Tensor:
        return ratio

    def mean(self, per_completion: Tensor, batch: Batch) -> Tensor:
        return released_mean(per_completion, batch.totals)

    def prompt_state(self, batch: Batch, current: PolicyOutputs) -> Tensor:
        assert current.prompt_hidden is not None and current.prompt_last_hidden is not None
        return mean_but_last(current.prompt_hidden, current.prompt_last_hidden, batch.prompt_lengths)

    def prepare(self, shape: ModelShape, seed: int, *, zero_init: bool = False) -> None:
        super().prepare(shape, seed, zero_init=zero_init)


OBJECTIVE = FlowRLRelease
