"""Pure tensor maths shared by the objectives. Values in, values out: no state, no randomness, no clock.

Shapes: B completions, T completion positions. Every mask is boolean and true where a completion token is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_sum(values: Tensor, completion_mask: Tensor) -> Tensor:
    """Sum over the completion's tokens. (B, T) -> (B,)"""
    return (values * completion_mask).sum(1)


def sequence_mean(values: Tensor, completion_mask: Tensor) -> Tensor:
    """Mean over the completion's tokens; an empty completion gives 0. (B, T) -> (B,)"""
    return sequence_sum(values, completion_mask) / completion_mask.sum(1).clamp(min=1)


def group_mean(values: Tensor, group_ids: Tensor) -> Tensor:
    """For each completion the mean over its group. (B,) -> (B,)"""
    index = _group_index(group_ids)
    sizes = index.bincount()
    sums = torch.zeros(len(sizes), dtype=values.dtype, device=values.device).index_add(0, index, values)
    return (sums / sizes)[index]


def group_normalise(rewards: Tensor, group_ids: Tensor, *, by_std: bool = True, eps: float = 1e-6) -> Tensor:
    """(r - mean) / (std + eps) within each group, with the sample standard deviation (n - 1). (B,) -> (B,)

    A group of equal rewards gives 0, and so does a group of one.
    """
    centred = rewards - group_mean(rewards, group_ids)
    if not by_std:
        return centred
    index = _group_index(group_ids)
    sizes = index.bincount()[index]
    variance = group_mean(centred.square(), group_ids) * sizes / (sizes - 1).clamp(min=1)
    return centred / (variance.sqrt() + eps)


def _group_index(group_ids: Tensor) -> Tensor:
    """Groups numbered from 0. (B,)"""
    index: Tensor = torch.unique(group_ids, return_inverse=True)[1]
    return index


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A), to be maximised. PPO, arXiv 1707.06347 eq. 7."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


def kl_k3(logp: Tensor, logp_reference: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) from the policy's samples: never negative, low variance.

    exp(d) - d - 1 with d = logp_reference - logp. Its gradient is not that of the KL. GRPO, arXiv 2402.03300 eq. 4.
    """
    difference = logp_reference - logp
    return difference.exp() - difference - 1


def trajectory_balance_residual(log_z: Tensor, logp: Tensor, scaled_reward: Tensor, logp_reference: Tensor) -> Tensor:
    """log Z + log policy - beta * reward - log reference, zero exactly where the flow balances. All (B,)"""
    return log_z + logp - scaled_reward - logp_reference
