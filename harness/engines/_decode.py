"""Batched decoding: each prompt is read once, finished completions leave, and others take their slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from harness.core.types import Sampling
from harness.engines._batch import Batch, Row
from harness.engines._precision import layers_in_bfloat16
from harness.engines._seats import Seats, can_be_seated
from harness.engines._windows import Window

# Passes over prompts cost something whatever their number, so a sixteenth of the slots is to be free.
JOIN_FRACTION = 1 / 16
# Copying the cache costs about two reads of it, so it pays once an eighth of the rows is done.
LEAVE_FRACTION = 1 / 8


@torch.inference_mode()
def decode(
    module: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    sampling: Sampling,
    is_finished: Callable[[Row], bool],
    max_rows: int,
    *,
    in_windows: bool = False,
    in_bfloat16: bool = False,
) -> Iterator[Row]:
    """The rows as they finish, each with its ids and log-probabilities; at most `max_rows` are decoded at once.

    In windows they begin together and none joins. In bfloat16, of float32 weights, they are given together as well.
    """
    is_seated = not in_windows and can_be_seated(module)
    n_together = len(rows) if is_seated else max_rows
    for start in range(0, len(rows), n_together):
        mine = rows[start : start + n_together]
        batch = (Seats if is_seated else Window)(module, prompts, min(max_rows, len(mine)))
        decoded: Iterable[Row] = _decode(batch, mine, sampling, is_finished)
        if in_bfloat16:
            with layers_in_bfloat16(module):
                decoded = list(decoded)
        yield from decoded


def _decode(batch: Batch, rows: Sequence[Row], sampling: Sampling, is_finished: Callable[[Row], bool]) -> Iterator[Row]:
    waiting = deque(rows)
    while waiting or batch.live():
        n_free = len(batch.free())
        if waiting and n_free >= JOIN_FRACTION * len(batch.slots):
            batch.take([waiting.popleft() for _ in range(min(len(waiting), n_free))])
        ids, logp = batch.step(sampling)
        yield from _record(batch.slots, ids, logp, sampling.max_tokens, is_finished)
        live = batch.live()
        if live and not waiting and len(live) <= (1 - LEAVE_FRACTION) * len(batch.slots):
            batch.keep(live)


def _record(
    slots: list[Row | None], ids: list[int], logp: list[float], max_tokens: int, is_finished: Callable[[Row], bool]
) -> Iterator[Row]:
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
