"""Trajectory balance without a log Z to learn: the variance, over a group, of log policy - log R.

Papers: Richter et al. 2020, arXiv 2010.10436 (the log-variance loss and its gradient, VarGrad); Zhang et al. 2023,
arXiv 2302.05446 (as a GFlowNet loss). To be minimised, mean over completions:

    ( log Z^ + sum_t log policy(y_t) - log R(y) )^2,   log R = beta r + sum_t log prior(y_t)
    log Z^ = mean over the group of [ log R - sum_t log old(y_t) ], no gradient

Before the first update of a step this is the group's variance of log policy - log R, with its gradient: that of
REINFORCE with the group's mean as baseline and the reward r - 1/beta log(policy / prior), times 2 beta.

One difference from the formula: log Z^ is that of the old policy throughout the step, and not that of each update, so
that the gradient does not depend on how a minibatch is cut into micro-batches. The default of 15 for `beta` is ours, as
in `tb`.

Two methods are this loss with other settings, and have a recipe each in the place of a file (`countdown-tba`,
`countdown-for`):

- TBA (Bartoldson et al. 2025, arXiv 2503.18929): `beta` is 1 over its reward temperature (0.012 falling to 0.004 for
  GSM8K, with 20 completions of a prompt), prior the reference. Its replay buffer and its asynchrony are not here. Its
  later form (TBA') is a constant factor away, which Adam does not see, with a reference that is reset regularly.
- Flow of Reasoning (Yu et al. 2024, arXiv 2406.05673): no prior, and log R is the logarithm of the reward: 100 for a
  right answer and 1e-4 for a wrong one, that is `beta` = log(1e6) = 13.8, since the loss does not see a constant in log
  R. Its replay buffer, annealed temperatures and mixed sampling are not here. With a learned scalar log Z, its other
  option, it is `tb`. It has no file of its own: `for` is a keyword of Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Need, Objective, Requirement
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import log_z_errors, log_z_estimates, sequence_sum, summed


class VarGradTrajectoryBalance(Objective):
    @dataclass(frozen=True, slots=True)
    class Config:
        beta: float = 15.0
        prior: Literal["reference", "none"] = "reference"

        def __post_init__(self) -> None:
            if self.beta <= 0:
                raise ValueError("beta must be above 0")

    requires: frozenset[Requirement] = frozenset({"group"})

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        prior: set[Need] = {"reference_logp"} if config.prior == "reference" else set()
        self.needs = frozenset[Need]({"logp_old"}) | prior

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        log_reward = self._log_reward(batch, old)
        log_weights = log_reward - sequence_sum(old.logp, batch.completion_mask)
        return Advantages(log_reward, log_z_estimates(log_weights, batch.group_ids))

    def _log_reward(self, batch: Batch, old: PolicyOutputs) -> Tensor:
        scaled = self.config.beta * batch.rewards
        if self.config.prior == "none":
            return scaled
        assert old.logp_reference is not None
        return scaled + sequence_sum(old.logp_reference, batch.completion_mask)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:  # noqa: ARG002
        log_z = advantages.extra["log_z_target"]
        residual = log_z + sequence_sum(current.logp, batch.completion_mask) - advantages.values
        loss = residual.square().sum() / batch.totals.n_completions
        metrics = summed(**log_z_errors(log_z, advantages.extra))
        return LossResult(loss, metrics)


OBJECTIVE = VarGradTrajectoryBalance
