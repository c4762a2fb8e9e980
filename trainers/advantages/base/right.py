"""The right completions of a step: which they are, how many a group has, and how many groups of k have none.

It is short because it holds one notion, that of a right completion, which the advantages that count must share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.errors import RunError
from harness.core.tensors import Batch
from harness.trainers.functional import group_sum


def right(batch: Batch) -> Tensor:
    """Return 1 for a right completion and 0 for a wrong one, in the dtype of the rewards. (B,)"""
    is_right = batch.rewards == 1
    if not bool((is_right | (batch.rewards == 0)).all()):
        low, high = float(batch.rewards.min()), float(batch.rewards.max())
        raise RunError(
            f"this advantage counts right completions, so rewards are 0 or 1; this step has rewards from {low:g} to "
            f"{high:g}: choose another objective.advantage, or a grader and a reward shaping that give 0 or 1"
        )
    return is_right.to(batch.rewards.dtype)


def unit_rewards(batch: Batch) -> Tensor:
    """Return the rewards. Raise RunError unless they lie in [0, 1]. (B,)"""
    low, high = float(batch.rewards.min()), float(batch.rewards.max())
    if low < 0 or high > 1:
        raise RunError(
            f"this advantage is defined for rewards in [0, 1], and this step has rewards from {low:g} to {high:g}: "
            "choose another objective.advantage, or a grader and a reward shaping within [0, 1]"
        )
    return batch.rewards


def counts(values: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the values over the group of each completion, and the group's size. (B,), (B,) -> twice (B,)"""
    return group_sum(values, group_ids), group_sum(torch.ones_like(values), group_ids)


def combinations_ratio(top: Tensor, bottom: Tensor, k: int) -> Tensor:
    """Return C(top, k) / C(bottom, k), the share of the k-subsets of `bottom` things that lie in `top` of them.

    0 where there is no such subset, top < k or bottom < k. (B,), (B,) -> (B,)
    """
    share = torch.ones_like(top)
    for i in range(k):  # factor by factor, since factorials overflow
        share = share * (top - i).clamp(min=0) / (bottom - i).clamp(min=1)
    return share * (bottom >= k)
