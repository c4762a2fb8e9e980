"""Kimi k1.5's policy mirror descent: regress tau times the log-ratio of a completion on its reward.

Paper: Kimi Team 2025, arXiv 2501.12599, eq. 2 and 3. To be minimised, mean over completions:

    1 / (2 tau) * ( r - mean r - tau * sum_t [ log policy(y_t) - log anchor(y_t) ] )^2

The mean over the group estimates tau log Z. The gradient is -(r - mean r) grad log policy + tau/2 grad (log policy /
anchor)^2, which is the paper's eq. 3 without its constant. The anchor is the old policy (`old`), to which the paper
resets its reference after each iteration; `reference` keeps the base model. There is no clip and no division by the
length. The paper does not report tau; 0.1 is ours. Its length penalty and its curriculum are not in the loss.

With the anchor `reference` this is trajectory balance with the group's mean as log Z, up to a factor and one
difference: the mean here is over rewards alone, there over rewards and log-ratios.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.core.protocols import Objective, Requirement
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import group_normalise, sequence_sum


class Kimi(Objective):
    @dataclass(frozen=True, slots=True)
    class Config:
        tau: float = 0.1
        anchor: Literal["old", "reference"] = "old"

        def __post_init__(self) -> None:
            if self.tau <= 0:
                raise ValueError("tau must be above 0")

    requires: frozenset[Requirement] = frozenset({"group"})

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = frozenset({"reference_logp"} if config.anchor == "reference" else set())

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:  # noqa: ARG002
        return Advantages(group_normalise(batch.rewards, batch.group_ids, by_std=False), {})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        anchor = old.logp_reference if self.config.anchor == "reference" else old.logp
        assert anchor is not None
        log_ratio = sequence_sum(current.logp - anchor, batch.completion_mask)
        residual = advantages.values - self.config.tau * log_ratio
        loss = residual.square().sum() / (2 * self.config.tau * batch.totals.n_completions)
        return LossResult(loss, {"log_ratio_per_sequence": (float(log_ratio.detach().sum()), float(len(log_ratio)))})


OBJECTIVE = Kimi
