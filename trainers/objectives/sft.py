"""Supervised fine-tuning on the task's own demonstrations: the mean negative log-likelihood of their tokens.

    loss = - sum_t log policy(y_t) / number of tokens in the minibatch

It is not reinforcement learning: the reward is recorded and not used.
"""

from __future__ import annotations

from typing import Literal

import torch

from harness.core.protocols import Objective
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs


class SupervisedFineTuning(Objective):
    source: Literal["policy", "demonstrations"] = "demonstrations"

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:  # noqa: ARG002
        return Advantages(torch.ones_like(batch.rewards), {})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:  # noqa: ARG002
        loss = -(current.logp * batch.completion_mask).sum() / batch.totals.n_tokens
        return LossResult(loss, {})


OBJECTIVE = SupervisedFineTuning
