"""Sequences as a Tinker server gets them, and the places of its numbers in a batch.

A sequence is sent as its tokens without the last, with its tokens without the first as targets. The log-prob of the
token at position i is then at i - 1, and those of a completion begin at the prompt's length - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.core.tensors import Batch


def sequences_of(batch: Batch) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt with its completion."""
    lengths = (batch.prompt_lengths + batch.completion_lengths).tolist()
    return [tuple(row[:n]) for row, n in zip(batch.sequence_ids.tolist(), lengths, strict=True)]


def datum(tokens: Sequence[int], **per_target: Sequence[float]) -> Any:
    """Return a sequence as the client sends it, with numbers for each of its targets."""
    from tinker import types

    n = len(tokens) - 1
    floats = {
        name: types.TensorData(data=[float(x) for x in values], dtype="float32", shape=[n])
        for name, values in per_target.items()
    }
    targets = types.TensorData(data=list(tokens[1:]), dtype="int64", shape=[n])
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens[:-1])),
        loss_fn_inputs={"target_tokens": targets, **floats},
    )


def logprobs_of(output: Any) -> list[torch.Tensor]:
    """Return the log-probs of all targets of each sequence, from the answer to a pass."""
    return [torch.tensor(one["logprobs"].data, dtype=torch.float32) for one in output.loss_fn_outputs]


def to_batch(per_target: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
    """Put the values of completion tokens at their places in the batch, zero elsewhere. (B, T)"""
    placed = torch.zeros(batch.completion_mask.shape)
    for row, (values, start, length) in enumerate(
        zip(per_target, batch.prompt_lengths.tolist(), batch.completion_lengths.tolist(), strict=True)
    ):
        placed[row, :length] = values[start - 1 : start - 1 + length]
    return placed


def from_batch(placed: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    """Return the values of each sequence's targets, zero for those of the prompt. (B, T) -> B x (L - 1,)"""
    lengths = zip(batch.prompt_lengths.tolist(), batch.completion_lengths.tolist(), strict=True)
    return [torch.cat([torch.zeros(n - 1), row[:m]]) for row, (n, m) in zip(placed, lengths, strict=True)]
