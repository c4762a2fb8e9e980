"""Reward shaping by length: a penalty near the token limit, and masking of truncated completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.core.tensors import Batch
from harness.core.types import Graded
from harness.trainers.config import OverlongConfig


def with_overlong_penalty(batch: Batch, overlong: OverlongConfig, max_tokens: int) -> Batch:
    """Subtract the overlong penalty from the rewards."""
    return dataclasses.replace(batch, rewards=batch.rewards - overlong_penalty(batch, overlong, max_tokens))


def overlong_penalty(batch: Batch, overlong: OverlongConfig, max_tokens: int) -> Tensor:
    """Return 0 until `buffer_tokens` before the limit, then linearly up to `penalty` at the limit. (B,)

    DAPO, arXiv 2503.14476 eq. 13.
    """
    into_buffer = batch.completion_lengths - (max_tokens - overlong.buffer_tokens)
    return overlong.penalty * (into_buffer / overlong.buffer_tokens).clamp(0, 1)


def untruncated_rows(items: Sequence[Graded[Any]]) -> Tensor:
    """Return which completions stay in the loss; the others still count in their group's statistics. (B,) bool"""
    return torch.tensor([item.completion.finish_reason != "length" for item in items])
