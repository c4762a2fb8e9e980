"""Batched decoding of one window of requests: each prompt is read once, finished sequences leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.core.protocols import Onlooker
from harness.core.types import FinishReason, Sampling
from harness.engines._attention import one_query_at_a_time
from harness.engines._cache import keep_rows, new_cache
from harness.engines._sampling import draw

# On a processor, matrix products of few rows take another kernel, whose rounding differs in the last bit. Keeping
# at least this many rows (by repeating one) makes a completion independent of the batch it happens to be in.
MIN_CPU_ROWS = 32
# Copying the cache costs about two reads of it, so it pays once an eighth of the rows is done.
LEAVE_FRACTION = 1 / 8


@dataclass(slots=True)
class Row:
    """One completion being decoded."""

    request: int
    prompt: int
    seed: int
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


@dataclass(slots=True)
class _Batch:
    """The state of the decoding, a slot a row. A slot of None is ballast: a finished row, or padding."""

    slots: list[Row | None]
    cache: Any
    next_ids: torch.Tensor  # (B,)
    seeds: torch.Tensor  # (B,)
    mask: torch.Tensor | None  # (B, tokens so far), left-padded; None where all prompts are of one length
    min_rows: int

    def keep(self, slots: list[int]) -> None:
        """Drop every other slot, repeating the first one where too few would be left."""
        ballast = max(0, self.min_rows - len(slots))
        index = torch.tensor(slots + slots[:1] * ballast, device=self.next_ids.device)
        keep_rows(self.cache, index)
        self.next_ids, self.seeds = self.next_ids[index], self.seeds[index]
        self.mask = None if self.mask is None else self.mask[index]
        self.slots = [self.slots[i] for i in slots] + [None] * ballast

    def live(self) -> list[int]:
        return [i for i, row in enumerate(self.slots) if row is not None]


@torch.inference_mode()
def decode(
    module: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    sampling: Sampling,
    is_finished: Callable[[Row], bool],
    onlooker: Onlooker | None = None,
) -> Iterator[Row]:
    """The rows as they finish, each with its ids and log-probabilities."""
    batch = _read_prompts(module, prompts, rows, onlooker)
    for position in range(sampling.max_tokens):
        if onlooker is not None:
            onlooker.reads_next([None if row is None else (prompts[row.prompt], row.ids) for row in batch.slots])
        batch.next_ids, logp = draw(_step(module, batch), batch.seeds, position, sampling)
        yield from _record(batch.slots, batch.next_ids.tolist(), logp.tolist(), is_finished)
        live = batch.live()
        if not live:
            return
        if len(live) <= (1 - LEAVE_FRACTION) * len(batch.slots) and len(batch.slots) > batch.min_rows:
            batch.keep(live)
    yield from (row for row in batch.slots if row is not None)


def _step(module: Any, batch: _Batch) -> torch.Tensor:
    """Feed the last token of every row. (B, V)"""
    positions = None if batch.mask is None else batch.mask.sum(1, keepdim=True) - 1
    with one_query_at_a_time(module):
        output = module(
            input_ids=batch.next_ids[:, None],
            attention_mask=batch.mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
    if batch.mask is not None:
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.mask), 1)], 1)
    logits: torch.Tensor = output.logits[:, -1]
    return logits


def _record(
    slots: list[Row | None], ids: list[int], logp: list[float], is_finished: Callable[[Row], bool]
) -> Iterator[Row]:
    for slot, row in enumerate(slots):
        if row is None:
            continue
        row.ids.append(ids[slot])
        row.logp.append(logp[slot])
        if is_finished(row):
            row.finish_reason = "stop"
            slots[slot] = None
            yield row


def _read_prompts(
    module: Any, prompts: Sequence[Sequence[int]], rows: Sequence[Row], onlooker: Onlooker | None
) -> _Batch:
    """Read every prompt but its last token, once; then a slot for every row.

    The last token is left to the first decoding step, so that all logits come from steps of the same shape.
    """
    device = module.device
    min_rows = MIN_CPU_ROWS if device.type == "cpu" else 1
    longest = max(len(prompt) for prompt in prompts)
    copies = -(-min_rows // (len(prompts) * max(1, longest - 1)))  # so that this pass too has rows enough
    padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts] * copies
    ids = torch.tensor(padded, device=device)
    is_padded = any(len(prompt) != longest for prompt in prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts] * copies, device=device)
    mask = (torch.arange(longest, device=device) >= (longest - lengths)[:, None]).long() if is_padded else None
    cache = new_cache(module.config)
    if longest > 1:
        head = None if mask is None else mask[:, :-1]
        positions = None if head is None else (head.cumsum(1) - 1).clamp(min=0)
        if onlooker is not None:
            onlooker.reads_prompts(prompts, len(padded))
        module.base_model(
            input_ids=ids[:, :-1], attention_mask=head, position_ids=positions, past_key_values=cache, use_cache=True
        )
    return _seat_rows(rows, cache, ids[:, -1], mask, min_rows)


def _seat_rows(
    rows: Sequence[Row], cache: Any, last_ids: torch.Tensor, mask: torch.Tensor | None, min_rows: int
) -> _Batch:
    ballast = max(0, min_rows - len(rows))
    seated = [*rows, *[rows[0]] * ballast]
    prompts = torch.tensor([row.prompt for row in seated], device=last_ids.device)
    seeds = torch.tensor([row.seed for row in seated], device=last_ids.device)
    if cache.get_seq_length() > 0:
        keep_rows(cache, prompts)
    row_mask = None if mask is None else mask[prompts]
    return _Batch([*rows, *[None] * ballast], cache, last_ids[prompts], seeds, row_mask, min_rows)
