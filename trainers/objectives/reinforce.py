"""REINFORCE: the log-likelihood of a completion, times how much better than a baseline it did.

Paper: Williams 1992, Machine Learning 8. To be minimised, mean over completions:

    - (r - b) sum_t log policy(y_t)

The baseline b is the running mean of the rewards of the earlier steps (`running_mean`, 0 in the first step; it does not
contain this batch, so the gradient is unbiased), the mean of this batch (`batch_mean`), or 0 (`none`).

The estimate is exact for one update a step. For several, `surrogate = "clipped"` is PPO's surrogate, as in most
libraries under this name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.protocols import Objective
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.objectives.base.policy_gradient import PolicyGradientConfig, policy_gradient, requirements_of


class Reinforce(Objective):
    @dataclass(frozen=True, slots=True)
    class Config(PolicyGradientConfig):
        baseline: Literal["running_mean", "batch_mean", "none"] = "running_mean"
        baseline_decay: float = 0.9

        def __post_init__(self) -> None:
            PolicyGradientConfig.__post_init__(self)
            if not 0 <= self.baseline_decay < 1:
                raise ValueError("baseline_decay must lie in [0, 1)")

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.requires = requirements_of(config)
        self._running_mean: float | None = None

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:  # noqa: ARG002
        return Advantages(batch.rewards - self._baseline(float(batch.rewards.mean())), {})

    def _baseline(self, mean_reward: float) -> float:
        """Return the baseline of this batch, and update the running mean with it for the next batch."""
        if self.config.baseline != "running_mean":
            return mean_reward if self.config.baseline == "batch_mean" else 0.0
        before, decay = self._running_mean, self.config.baseline_decay
        self._running_mean = mean_reward if before is None else decay * before + (1 - decay) * mean_reward
        return before if before is not None else 0.0

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        return policy_gradient(batch, current, old, advantages.values, self.config)

    def state_dict(self) -> Mapping[str, Any]:
        return {"running_mean": self._running_mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._running_mean = state["running_mean"]


OBJECTIVE = Reinforce
