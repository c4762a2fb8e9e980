"""Resets of the reference to the policy: on a schedule, or when the reward has stalled.

The reward has stalled when the mean of the last `reset_on_stall_steps` steps is not `stall_margin` above that of as
many before. A reset starts the count again. ProRL (arXiv 2505.24864) looks at a validation score instead, and by eye.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from harness.trainers.config import ReferenceConfig


class ReferenceReset:
    """When the reference becomes the policy; part of a checkpoint."""

    def __init__(self, config: ReferenceConfig) -> None:
        self._config = config
        self.is_used = config.is_ever_reset
        self._rewards: list[float] = []
        self.n_resets = 0

    def update(self, step: int, reward: float) -> bool:
        """Record the mean reward of a step and return whether the reference is to be reset after it."""
        every, stall = self._config.reset_every_steps, self._config.reset_on_stall_steps
        self._rewards = [*self._rewards, reward][-2 * stall :] if stall > 0 else []
        is_due = (every > 0 and step % every == 0) or self._has_stalled(stall)
        if is_due:
            self.n_resets += 1
            self._rewards = []
        return is_due

    def _has_stalled(self, stall: int) -> bool:
        if stall == 0 or len(self._rewards) < 2 * stall:
            return False
        before, now = (statistics.fmean(part) for part in (self._rewards[:stall], self._rewards[stall:]))
        return now - before <= self._config.stall_margin

    def state_dict(self) -> Mapping[str, Any]:
        return {"rewards": self._rewards, "n_resets": self.n_resets}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rewards, self.n_resets = list(state["rewards"]), state["n_resets"]
