"""REINFORCE's advantage: the reward less one baseline for the whole step.

Paper: Williams 1992, Machine Learning 8. For every completion of a step:

    A_i = r_i - b

`mean = "running"`: b is the running mean of the rewards of the earlier steps, b <- decay b + (1 - decay) mean r, and 0
in the first step. It does not contain this step's rewards, so the gradient is unbiased. `mean = "batch"`: b is the mean
reward of this step. `mean = "none"`: b = 0.

Edge cases: it compares nothing within a group, so one completion of a prompt is enough, and a group of equal rewards
has a gradient. The running mean is stored in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from harness.core.protocols import Advantage, Requirement
from harness.core.tensors import Batch, PolicyOutputs


class Baseline(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        mean: Literal["running", "batch", "none"] = "running"
        decay: float = 0.9

        def __post_init__(self) -> None:
            if not 0 <= self.decay < 1:
                raise ValueError("decay must lie in [0, 1)")

    requires: frozenset[Requirement] = frozenset()

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self._running_mean: float | None = None

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        return batch.rewards - self._baseline(float(batch.rewards.mean()))

    def _baseline(self, mean_reward: float) -> float:
        """Return the baseline of this step, and update the running mean for the next."""
        if self.config.mean != "running":
            return mean_reward if self.config.mean == "batch" else 0.0
        before, decay = self._running_mean, self.config.decay
        self._running_mean = mean_reward if before is None else decay * before + (1 - decay) * mean_reward
        return before if before is not None else 0.0

    def state_dict(self) -> Mapping[str, Any]:
        return {"running_mean": self._running_mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._running_mean = state["running_mean"]


ADVANTAGE = Baseline
