"""REINFORCE++: PPO's clipped surrogate without a critic, advantages normalised over the whole batch.

Paper: Hu 2025, arXiv 2501.03262. To be minimised, mean over the tokens of the minibatch:

    - min(rho A_t, clip(rho, 1 - clip_low, 1 + clip_high) A_t)
    A_t = whiten( sum_{s >= t} gamma^(s - t) r_s )

where r_s is the outcome at the last token and, with the loop's `kl.place = "reward"`, minus the KL of each token;
`whiten` subtracts the mean over all tokens of the step and divides by their standard deviation. There is no mean over a
group, so one completion of a prompt is enough.

`baseline = "group_mean"` is REINFORCE++-baseline: the group's mean is subtracted from the completion's reward, each of
its tokens gets the difference, and then the step is whitened. It differs by settings only, so it has a recipe
(`countdown-reinforce_pp_baseline`) and no file of its own.

The variance is the sample one (n - 1) with 1e-8 added, as in verl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.core.protocols import Objective
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import discounted_returns, group_normalise, rewards_by_token, whitened
from harness.trainers.objectives.base.policy_gradient import ClipConfig, clipped_policy_gradient


class ReinforcePlusPlus(Objective):
    @dataclass(frozen=True, slots=True)
    class Config(ClipConfig):
        baseline: Literal["none", "group_mean"] = "none"
        gamma: float = 1.0

        def __post_init__(self) -> None:
            ClipConfig.__post_init__(self)
            if not 0 <= self.gamma <= 1:
                raise ValueError("gamma must lie in [0, 1]")
            if self.baseline == "group_mean" and self.gamma != 1:
                raise ValueError(
                    "baseline = 'group_mean' has one advantage for all tokens of a completion; leave gamma at 1"
                )

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.requires = frozenset({"group"} if config.baseline == "group_mean" else set())

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:  # noqa: ARG002
        mask = batch.completion_mask
        if self.config.baseline == "group_mean":
            centred = group_normalise(batch.rewards, batch.group_ids, by_std=False)
            returns = centred[:, None].expand(mask.shape)
        else:
            returns = discounted_returns(rewards_by_token(batch), mask, self.config.gamma)
        return Advantages(whitened(returns, mask), {})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        return clipped_policy_gradient(batch, current, old, advantages.values, self.config)


OBJECTIVE = ReinforcePlusPlus
