"""Reward shaping: MARA, a penalty near the token limit, and masking of truncated completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.core.tensors import Batch, PolicyOutputs
from harness.core.types import Graded
from harness.trainers.config import MaraConfig, OverlongConfig
from harness.trainers.functional import group_max, sequence_sum


def with_overlong_penalty(batch: Batch, overlong: OverlongConfig, max_tokens: int) -> Batch:
    """Subtract the overlong penalty from the rewards."""
    return dataclasses.replace(batch, rewards=batch.rewards - overlong_penalty(batch, overlong, max_tokens))


def overlong_penalty(batch: Batch, overlong: OverlongConfig, max_tokens: int) -> Tensor:
    """Return 0 until `buffer_tokens` before the limit, then linearly up to `penalty` at the limit. (B,)

    DAPO, arXiv 2503.14476 eq. 13.
    """
    into_buffer = batch.completion_lengths - (max_tokens - overlong.buffer_tokens)
    return overlong.penalty * (into_buffer / overlong.buffer_tokens).clamp(0, 1)


def with_mara(batch: Batch, old: PolicyOutputs, mara: MaraConfig) -> Batch:
    """Anchor the rewards of a group's right completions at the one that the reference finds most probable.

    GX-Chen et al. 2025, arXiv 2510.20817: r(y) becomes r(z) + beta (log reference(z) - log reference(y)) where r(y) is
    at least the threshold, and z is the most probable such completion of the group. The optimum of reward less beta KL
    is reference exp(r / beta) / Z, which is then the same for all of them. Wrong completions keep their reward.
    """
    assert old.logp_reference is not None
    is_right, ids = batch.rewards >= mara.threshold, batch.group_ids
    logp = sequence_sum(old.logp_reference, batch.completion_mask)  # (B,)
    anchor = group_max(logp.masked_fill(~is_right, -torch.inf), ids)  # (B,), -inf where no completion is right
    of_anchor = group_max(batch.rewards.masked_fill(~(is_right & (logp == anchor)), -torch.inf), ids)
    anchored = (of_anchor + mara.beta * (anchor - logp)).to(batch.rewards.dtype)
    return dataclasses.replace(batch, rewards=torch.where(is_right, anchored, batch.rewards))


def untruncated_rows(items: Sequence[Graded[Any]]) -> Tensor:
    """Return which completions stay in the loss; the others still count in their group's statistics. (B,) bool"""
    return torch.tensor([item.completion.finish_reason != "length" for item in items])
