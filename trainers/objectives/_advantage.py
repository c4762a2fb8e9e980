"""Advantages from the group, for the objectives that share GRPO's."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.training import Batch, Credit
from harness.trainers.functional import group_normalise


@dataclass(frozen=True, slots=True)
class Grouped:
    """A = (r - mean r) / (std r + std_eps) within the group, with the sample standard deviation; or r - mean r."""

    normalise_by_std: bool = True
    std_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.std_eps < 0:
            raise ValueError("std_eps must not be negative")


def group_credit(batch: Batch, config: Grouped) -> Credit:
    advantages = group_normalise(batch.rewards, batch.group_ids, by_std=config.normalise_by_std, eps=config.std_eps)
    return Credit(advantages, {})
