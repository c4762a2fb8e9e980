"""What a run changes of its own settings as it goes: the coefficient of a KL with a target, and the reference.

The coefficient is that of Ziegler et al. 2019, arXiv 1909.08593, as PPO trainers have it: after each step

    coefficient <- coefficient * (1 + clip(KL / target - 1, -0.2, 0.2) * completions / horizon)

The reference is set to the policy by schedule, or when the reward has stalled: the mean of the last
`reset_on_stall_steps` steps is not `stall_margin` above that of as many before. Counting begins anew with each reset.
ProRL (arXiv 2505.24864) looks at a validation score instead, and by eye.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from harness.trainers.config import KlConfig, ReferenceConfig

LARGEST_ERROR = 0.2


class Steering:
    """Its state is part of a checkpoint."""

    def __init__(self, kl: KlConfig, reference: ReferenceConfig) -> None:
        self.kl = kl
        """As it is in this step."""
        self._reference = reference
        self._rewards: list[float] = []
        self.n_resets = 0

    def adapt(self, kl_to_reference: float, n_completions: int) -> None:
        """The coefficient of the next step, by the KL of this one."""
        if self.kl.target is None:
            return
        error = min(max(kl_to_reference / self.kl.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        factor = 1 + error * n_completions / self.kl.horizon
        self.kl = dataclasses.replace(self.kl, coefficient=self.kl.coefficient * factor)

    def resets(self, step: int, reward: float) -> bool:
        """Whether the reference becomes the policy after this step. To be asked once a step."""
        every, stall = self._reference.reset_every_steps, self._reference.reset_on_stall_steps
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
        return now - before <= self._reference.stall_margin

    def state_dict(self) -> Mapping[str, Any]:
        return {"coefficient": self.kl.coefficient, "rewards": self._rewards, "n_resets": self.n_resets}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kl = dataclasses.replace(self.kl, coefficient=state["coefficient"])
        self._rewards, self.n_resets = list(state["rewards"]), state["n_resets"]
