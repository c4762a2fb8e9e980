"""The reward as the objective sees it: with a penalty on length near the limit and on drifting from the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.core.tensors import Batch, PolicyOutputs
from harness.core.types import Graded
from harness.trainers.config import KlConfig, OverlongConfig
from harness.trainers.functional import kl_estimate, sequence_sum


def shaped(batch: Batch, old: PolicyOutputs, overlong: OverlongConfig, kl: KlConfig, max_tokens: int) -> Batch:
    """The batch with its rewards shaped, as the settings have it."""
    if overlong.buffer_tokens > 0:
        batch = dataclasses.replace(batch, rewards=batch.rewards - overlong_penalty(batch, overlong, max_tokens))
    if kl.place == "reward":
        assert old.logp_reference is not None
        estimate = kl_estimate(old.logp, old.logp_reference, kl.estimator)
        given = -kl.coefficient * estimate * batch.completion_mask
        rewards = batch.rewards + sequence_sum(given, batch.completion_mask)
        batch = dataclasses.replace(batch, rewards=rewards, token_rewards=given)
    return batch


def overlong_penalty(batch: Batch, overlong: OverlongConfig, max_tokens: int) -> Tensor:
    """From 0 at `buffer_tokens` before the limit, linearly to `penalty` at it. DAPO, arXiv 2503.14476 eq. 13. (B,)"""
    into_buffer = batch.completion_lengths - (max_tokens - overlong.buffer_tokens)
    return overlong.penalty * (into_buffer / overlong.buffer_tokens).clamp(0, 1)


def trained_rows(items: Sequence[Graded[Any]], overlong: OverlongConfig) -> Tensor:
    """Which completions the loss sees: masked ones have counted in their group's statistics already. (B,) bool"""
    kept = [not (overlong.mask_truncated and item.completion.finish_reason == "length") for item in items]
    return torch.tensor(kept)
