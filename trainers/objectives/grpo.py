"""Group Relative Policy Optimisation: clipped surrogate, advantages normalised within the group.

Paper: Shao et al. 2024, arXiv 2402.03300, eq. 3 and 4. To be minimised, for G completions y_i of a prompt:

    - 1/G sum_i 1/|y_i| sum_t [ min(rho A_i, clip(rho, 1 - clip_low, 1 + clip_high) A_i) - kl_beta * k3 ]
    rho = policy(y_t) / policy_before_the_step(y_t),  A_i = (r_i - mean r) / (std r + eps),  k3 = KL estimate

Reduction: `sequence_mean` is the paper's (mean over tokens, then over completions); `token_mean` is DAPO's and
verl's (mean over all tokens of the minibatch), under which long completions weigh more.

Choices the paper leaves open: the standard deviation is the sample one (n - 1) and eps 1e-6, as in verl. The
coefficient `kl_beta` is the paper's 0.04; today's recipes set 0, and then no reference pass is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from harness.core.protocols import Batch, Credit, LossResult, Need, Objective, PolicyOutputs
from harness.trainers.functional import clipped_surrogate, group_normalise, kl_k3, sequence_mean
from harness.trainers.objectives._parameterless import Parameterless


class Grpo(Parameterless):
    @dataclass(frozen=True, slots=True)
    class Config:
        clip_low: float = 0.2
        clip_high: float = 0.2
        kl_beta: float = 0.04
        normalise_by_std: bool = True
        reduction: Literal["sequence_mean", "token_mean"] = "sequence_mean"

    source: Literal["policy", "demonstrations"] = "policy"
    needs: frozenset[Need]

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs = frozenset({"reference_logp"} if config.kl_beta != 0 else set())

    def credit(self, batch: Batch, frozen: PolicyOutputs) -> Credit:  # noqa: ARG002
        advantages = group_normalise(batch.rewards, batch.group_ids, by_std=self.config.normalise_by_std)
        return Credit(advantages, {})

    def loss(self, batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, credit: Credit) -> LossResult:
        mask, advantages = batch.completion_mask, credit.weights[:, None]
        log_ratio = live.logp - frozen.logp
        per_token = -clipped_surrogate(log_ratio, advantages, self.config.clip_low, self.config.clip_high)
        metrics = {"clip_fraction": self._clipped(log_ratio.detach(), advantages, mask)}
        if frozen.logp_reference is not None and self.config.kl_beta != 0:
            kl = kl_k3(live.logp, frozen.logp_reference)
            per_token = per_token + self.config.kl_beta * kl
            metrics["kl_reference_k3"] = (float((kl.detach() * mask).sum()), float(mask.sum()))
        if self.config.reduction == "token_mean":
            loss = (per_token * mask).sum() / batch.totals.n_tokens
        else:
            loss = sequence_mean(per_token, mask).sum() / batch.totals.n_completions
        return LossResult(loss, metrics)

    def _clipped(self, log_ratio: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
        """Tokens whose gradient the clip took away."""
        ratio = log_ratio.exp()
        above = (ratio > 1 + self.config.clip_high) & (advantages > 0)
        below = (ratio < 1 - self.config.clip_low) & (advantages < 0)
        return float(((above | below) & mask).sum()), float(mask.sum())


OBJECTIVE: type[Objective] = Grpo
