"""REINFORCE++'s advantage: returns of tokens, normalised over all tokens of the step.

Paper: Hu 2025, arXiv 2501.03262. For every token t of a completion:

    A_t = ( R_t - mean R ) / sqrt( var R + 1e-8 ),  R_t = sum_{s >= t} gamma^(s - t) r_s

r_s is the outcome at the last token and, with the loop's `kl.place = "reward"`, minus the KL of each token. Mean and
variance (the sample one, n - 1, as in verl) are over all tokens of all completions of the step.

`baseline = "group_mean"` is REINFORCE++-baseline: R_t is the completion's reward less the mean of its group, the same
for each of its tokens.

Edge cases: with `baseline = "none"` one completion of a prompt is enough, and a group of equal rewards has a gradient.
Rewards that are equal in the whole step give A = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Advantage
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.functional import discounted_returns, group_normalise, rewards_by_token, whitened


class WhitenedOverBatch(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        baseline: Literal["none", "group_mean"] = "none"
        gamma: float = 1.0

        def __post_init__(self) -> None:
            if not 0 <= self.gamma <= 1:
                raise ValueError("gamma must lie in [0, 1]")
            if self.baseline == "group_mean" and self.gamma != 1:
                raise ValueError(
                    "baseline = 'group_mean' has one advantage for all tokens of a completion; leave gamma at 1"
                )

    per_token = True

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.requires = frozenset({"group"} if config.baseline == "group_mean" else set())

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        mask = batch.completion_mask
        if self.config.baseline == "group_mean":
            centred = group_normalise(batch.rewards, batch.group_ids, by_std=False)
            return whitened(centred[:, None].expand(mask.shape), mask)
        return whitened(discounted_returns(rewards_by_token(batch), mask, self.config.gamma), mask)


ADVANTAGE = WhitenedOverBatch
