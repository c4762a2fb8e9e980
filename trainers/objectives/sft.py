"""Supervised fine-tuning on the task's own demonstrations: the mean negative log-likelihood of their tokens.

    loss = - sum_t log policy(y_t) / number of tokens in the minibatch

Not an objective of reinforcement learning: the reward is recorded and plays no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from harness.core.protocols import Need, Objective
from harness.core.training import Batch, Credit, LossResult, PolicyOutputs
from harness.trainers.objectives.base.parameters import NoParameters


class SupervisedFineTuning(NoParameters):
    @dataclass(frozen=True, slots=True)
    class Config:
        pass

    source: Literal["policy", "demonstrations"] = "demonstrations"
    needs: frozenset[Need] = frozenset()

    def __init__(self, config: Config) -> None:
        self.config = config

    def credit(self, batch: Batch, frozen: PolicyOutputs) -> Credit:  # noqa: ARG002
        return Credit(torch.ones_like(batch.rewards), {})

    def loss(self, batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, credit: Credit) -> LossResult:  # noqa: ARG002
        loss = -(live.logp * batch.completion_mask).sum() / batch.totals.n_tokens
        return LossResult(loss, {})


OBJECTIVE: type[Objective] = SupervisedFineTuning
