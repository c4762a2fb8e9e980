"""The decoding loop: read each prompt once, sample a token for all completions, refill the slots of finished ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch

from harness.core.types import Sampling
from harness.engines.hf.batch import DecodeBatch, DecodingSlot, mixes_lengths

# A pass over prompts has a fixed cost, so completions join once a sixteenth of the slots is free.
JOIN_FRACTION = 1 / 16
# Copying the cache costs about two reads of it, so the batch shrinks once an eighth of it is done.
LEAVE_FRACTION = 1 / 8


@torch.inference_mode()
def decode(
    module: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[DecodingSlot],
    sampling: Sampling,
    is_finished: Callable[[DecodingSlot], bool],
    max_rows: int,
    *,
    in_blocks: bool = True,
    in_bfloat16: bool = False,
) -> Iterator[DecodingSlot]:
    """Yield the completions as they finish, with their ids and log-probabilities; at most `max_rows` are in the batch.

    With `in_bfloat16`, for float32 weights, the completions that started together are yielded together.
    """
    for group in _groups(module, prompts, rows, max_rows, in_bfloat16=in_bfloat16):
        batch = DecodeBatch(module, prompts, min(max_rows, len(group)), in_blocks=in_blocks)
        decoded: Iterable[DecodingSlot] = _decode(batch, group, sampling, is_finished)
        if in_bfloat16:
            with layers_in_bfloat16(module):
                decoded = list(decoded)
        yield from decoded


def _groups(
    module: Any, prompts: Sequence[Sequence[int]], rows: Sequence[DecodingSlot], max_rows: int, *, in_bfloat16: bool
) -> Iterator[Sequence[DecodingSlot]]:
    """Yield the completions of one batch after the other."""
    if mixes_lengths(module):
        n_together = max_rows if in_bfloat16 else max(1, len(rows))
        yield from _pieces(rows, n_together)
        return
    by_length = sorted(rows, key=lambda row: -len(prompts[row.prompt]))
    for _, alike in groupby(by_length, key=lambda row: len(prompts[row.prompt])):
        yield from _pieces(list(alike), max_rows)


def _pieces(rows: Sequence[DecodingSlot], size: int) -> Iterator[Sequence[DecodingSlot]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _decode(
    batch: DecodeBatch,
    rows: Sequence[DecodingSlot],
    sampling: Sampling,
    is_finished: Callable[[DecodingSlot], bool],
) -> Iterator[DecodingSlot]:
    waiting = deque(rows)
    while waiting or batch.live():
        n_free = len(batch.free())
        if waiting and n_free >= JOIN_FRACTION * len(batch.slots):
            batch.admit([waiting.popleft() for _ in range(min(len(waiting), n_free))])
        ids, logp = batch.step(sampling)
        yield from _record(batch.slots, ids, logp, sampling.max_tokens, is_finished)
        live = batch.live()
        if live and not waiting and len(live) <= (1 - LEAVE_FRACTION) * len(batch.slots):
            batch.keep(live)


def _record(
    slots: list[DecodingSlot | None],
    ids: list[int],
    logp: list[float],
    max_tokens: int,
    is_finished: Callable[[DecodingSlot], bool],
) -> Iterator[DecodingSlot]:
    """Append the sampled tokens; yield the completions that end with them and free their slots."""
    for slot, row in enumerate(slots):
        if row is None:
            continue
        row.ids.append(ids[slot])
        row.logp.append(logp[slot])
        if is_finished(row):
            row.finish_reason = "stop"
        if row.finish_reason == "stop" or len(row.ids) == max_tokens:
            slots[slot] = None
            yield row


@contextmanager
def layers_in_bfloat16(module: Any) -> Iterator[None]:
    """Run the layers under autocast and the logits in float32, as a policy with `precision = "bfloat16"` trains.

    Weights are cast once, when they are first read in this context: run many steps in it, and change no weight.
    """
    output = module.get_output_embeddings()
    plain = output.forward

    def in_float32(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits: torch.Tensor = plain(hidden.float())
        return logits

    output.forward = in_float32
    try:
        with torch.autocast(module.device.type, torch.bfloat16):
            yield
    finally:
        del output.forward
