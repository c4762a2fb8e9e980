"""RS-GRPO's advantage: the reward under a risk-seeking objective, the logarithm of the mean of exp(beta r).

Paper: Jiang et al. 2025, arXiv 2509.24261. The objective is (1/beta) log E exp(beta r). For the G completions of a
prompt:

    A_i = 1/beta * ( exp(beta r_i) / mean exp(beta r) - 1 )

beta > 0 seeks risk: as beta grows the best completions get all the weight (the objective becomes the maximum), and
for beta -> 0 it is the advantage `mean`. beta < 0 avoids risk. There is no standard deviation. The authors recommend
beta = 2, for rewards 0 and 1. Their snippet (github.com/Jackory/RS-GRPO, codes/risk_sensitive_adv.py) uses a name that
it never defines. The logarithm of mean exp(beta r) is TBA's estimate of log Z without its log-probs.

Edge cases: a group of equal rewards, all right or none, has A = 0, and so has a group of one. Rewards may be any
number.

Recipe: `countdown-risk_sensitive`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.core.protocols import Advantage
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.functional import group_log_mean_exp


class RiskSensitive(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        beta: float = 2.0

        def __post_init__(self) -> None:
            if self.beta == 0:
                raise ValueError("beta must not be 0: its limit there is the advantage 'mean'")

    config: Config

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        scaled = self.config.beta * batch.rewards
        return (scaled - group_log_mean_exp(scaled, batch.group_ids)).expm1() / self.config.beta


ADVANTAGE = RiskSensitive
