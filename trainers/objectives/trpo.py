"""TRPO in its penalty form: the ratio times the advantage, minus an adaptive KL penalty to the old policy.

Papers: Schulman et al. 2015, arXiv 1502.05477 (the constraint, and its penalty form); Schulman et al. 2017, arXiv
1707.06347, section 4 (the rule that adapts the coefficient). To be minimised, mean over the tokens of the minibatch:

    - rho A_i + coefficient * KL(old || policy),  rho = policy(y_t) / old(y_t)
    A_i: the advantage `group`, or another one

After a step whose mean KL was above 1.5 times `kl_target` the coefficient doubles, below kl_target / 1.5 it halves,
within [coefficient / 1024, coefficient * 1024]. The KL is estimated as rho - 1 - log rho: the tokens come from the old
policy, so that mean and gradient of the estimate are those of the KL.

Differences from the paper: first-order updates in the place of the conjugate gradient with a line search, so the
constraint is a target and not guaranteed; the group's advantage in the place of a critic's. The KL is measured on each
minibatch before its update, and is 0 for the first; so a run with one update a step is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import Reduction, by_token, reduced, total
from harness.trainers.objectives.base import removed_options

WIDEST = 1024.0


class Trpo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config:
        kl_target: float = 0.01
        coefficient: float = 1.0
        reduction: Reduction = "token_mean"
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            if min(self.kl_target, self.coefficient) <= 0:
                raise ValueError("kl_target and coefficient must be above 0")

    removed_options = removed_options.GROUP_ADVANTAGE

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.requires |= {"several_updates"}
        self.coefficient = config.coefficient
        self._kl = (0.0, 0.0)

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        self._adapt()
        return super().advantages(batch, old)

    def _adapt(self) -> None:
        """Adapt the coefficient to the KL of the previous step."""
        kl, n_tokens = self._kl
        if n_tokens > 0 and kl / n_tokens > 1.5 * self.config.kl_target:
            self.coefficient = min(self.coefficient * 2, self.config.coefficient * WIDEST)
        elif n_tokens > 0 and kl / n_tokens < self.config.kl_target / 1.5:
            self.coefficient = max(self.coefficient / 2, self.config.coefficient / WIDEST)
        self._kl = (0.0, 0.0)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        log_ratio = current.logp - old.logp
        ratio = log_ratio.exp()
        kl = self._kl_before(current, old)
        per_token = -ratio * by_token(advantages.values) + self.coefficient * kl
        loss = reduced(per_token, batch, self.config.reduction)
        measured = total(kl, batch.completion_mask)
        self._kl = (self._kl[0] + measured[0], self._kl[1] + measured[1])
        return LossResult(loss, {"kl_before": measured, "kl_coefficient": (self.coefficient, 1.0)})

    def _kl_before(self, current: PolicyOutputs, old: PolicyOutputs) -> Tensor:
        # The weights between engine and trainer belong to the surrogate, not to the KL, as in grpo.
        logp = current.logp_unweighed if current.logp_unweighed is not None else current.logp
        log_ratio = logp - old.logp
        return log_ratio.exp() - 1 - log_ratio

    def state_dict(self) -> Mapping[str, Any]:
        return {"coefficient": self.coefficient, "kl": self._kl, "advantage": dict(super().state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coefficient, self._kl = state["coefficient"], tuple(state["kl"])
        super().load_state_dict(state["advantage"])


OBJECTIVE = Trpo
