"""The fields that the driver writes into verl's batch, and that a worker reads back for its micro-batch.

A minibatch is spread over processes and micro-batches, so each row carries the totals of its own: the loss of a
micro-batch is divided by them wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import RunError
from harness.core.tensors import Advantages, Batch, Totals
from harness.trainers.batch import totals_of

PREFIX = "harness_"
TRAINED, REWARD, COUNTS, VALUES, WEIGHTS = (
    f"{PREFIX}{name}" for name in ("trained", "reward", "counts", "advantages", "engine_weights")
)
EXTRA = f"{PREFIX}extra_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """Everything that a step computes where whole groups are, without gradient."""

    batch: Batch
    advantages: Advantages
    trained: Tensor
    """Which rows are in the loss. (B,) bool"""
    minibatches: Tensor
    """The minibatch of each row, from 0. (B,)"""
    engine_weights: Tensor | None = None  # (B, T)


def driver_fields(scored: ScoredRows) -> dict[str, Tensor]:
    """Return the fields of all rows, one value or one row of tokens each. (B,), (B, k) or (B, T)"""
    fields = {
        TRAINED: scored.trained,
        REWARD: scored.batch.rewards.float(),
        COUNTS: _counts(scored),
        VALUES: scored.advantages.values.float(),
        **{f"{EXTRA}{name}": tensor.float() for name, tensor in scored.advantages.extra.items()},
    }
    return fields if scored.engine_weights is None else {**fields, WEIGHTS: scored.engine_weights}


def _counts(scored: ScoredRows) -> Tensor:
    """Return minibatch, its completions, tokens and prompts, the prompt's index in it, and its tokens. (B, 6)"""
    batch = scored.batch
    counts = torch.zeros(len(scored.trained), 6, dtype=torch.long)
    counts[:, 0] = scored.minibatches
    for minibatch in torch.unique(scored.minibatches).tolist():
        rows = ((scored.minibatches == minibatch) & scored.trained).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        index = torch.unique(batch.group_ids[rows], return_inverse=True)[1]
        totals = totals_of(batch.completion_lengths[rows], index)
        assert totals.tokens_by_prompt is not None
        whole = torch.tensor([totals.n_completions, totals.n_tokens, len(totals.tokens_by_prompt)])
        counts[rows, 1:4] = whole
        counts[rows, 4] = index
        counts[rows, 5] = totals.tokens_by_prompt[index].long()
    return counts


def totals_in(counts: Tensor) -> tuple[Totals, Tensor]:
    """Return the totals of the minibatch that these rows are of, and the rows' prompts. (B, 6) -> (B,)"""
    numbers = counts[0, 1:4].tolist()
    if not bool((counts[:, :4] == counts[0, :4]).all()):
        raise RunError(
            "verl mixed two minibatches in one update, so no loss can be divided by its totals: set "
            "actor_rollout_ref.actor.shuffle = false and start it by `harness train --backend verl`"
        )
    n_completions, n_tokens, n_prompts = numbers
    # Only the prompts of these rows are read; those of other micro-batches count as prompts and no more.
    by_prompt = torch.ones(n_prompts, device=counts.device).scatter(0, counts[:, 4], counts[:, 5].float())
    return Totals(n_completions, n_tokens, by_prompt), counts[:, 4]


def advantages_in(fields: Mapping[str, Tensor]) -> Advantages:
    """Return the advantages of a micro-batch from its fields."""
    extra = {name.removeprefix(EXTRA): tensor for name, tensor in fields.items() if name.startswith(EXTRA)}
    return Advantages(fields[VALUES], extra)


def scattered(fields: Mapping[str, Tensor], rows: Sequence[int], lengths: Sequence[int]) -> dict[str, Any]:
    """Return the fields of some rows as fields of all, zero at the others: tensors, or for tokens a list of rows."""
    width, index = max(lengths), torch.tensor(rows)
    found: dict[str, Any] = {}
    for name, tensor in fields.items():
        is_of_tokens = tensor.dim() == 2 and name != COUNTS
        whole = tensor.new_zeros(len(lengths), *((width,) if is_of_tokens else tensor.shape[1:]))
        if is_of_tokens:
            whole[index, : tensor.shape[1]] = tensor
            found[name] = [row[:length] for row, length in zip(whole, lengths, strict=True)]
        else:
            whole[index] = tensor
            found[name] = whole
    return found


def spread(minibatches: Sequence[int], workloads: Sequence[int], n_ranks: int) -> list[int]:
    """Return the order of the rows in which rank r of verl gets, as its m-th slice, its share of minibatch m.

    verl gives each rank one contiguous part of the batch, and a rank cuts its part into minibatches. Within a minibatch
    the longest rows go first, each to the rank with the least work that has room.
    """
    shares: list[list[list[int]]] = [[] for _ in range(n_ranks)]
    for minibatch in sorted(set(minibatches)):
        rows = sorted((i for i, m in enumerate(minibatches) if m == minibatch), key=lambda i: -workloads[i])
        if len(rows) % n_ranks:
            raise RunError(f"minibatch {minibatch} has {len(rows)} rows, which {n_ranks} processes can't share equally")
        room, loads = len(rows) // n_ranks, [0] * n_ranks
        parts: list[list[int]] = [[] for _ in range(n_ranks)]
        for row in rows:
            rank = min((r for r in range(n_ranks) if len(parts[r]) < room), key=lambda r: loads[r])
            parts[rank].append(row)
            loads[rank] += workloads[row]
        for share, part in zip(shares, parts, strict=True):
            share.append(part)
    return [row for share in shares for part in share for row in part]
