"""Forward passes that score given tokens: their log-probability, and whether each was the likeliest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from harness.engines.hf.batch import MIN_CPU_ROWS
from harness.models.passages import ScoringWindow

# Limits of one forward pass: tokens, and elements of its logits.
PASS_TOKENS = 16_384
PASS_LOGITS = 2**28


@torch.inference_mode()
def score_windows(module: Any, windows: Iterable[ScoringWindow]) -> dict[ScoringWindow, tuple[float, bool]]:
    """Return the log-probability of the scored tokens of each window, and whether greedy decoding would write them.

    Windows that differ in their last token alone, such as the letters of a choice, are read once.
    """
    by_input: dict[tuple[int, ...], list[ScoringWindow]] = defaultdict(list)
    for window in windows:
        by_input[window.input_ids].append(window)
    scores: dict[ScoringWindow, tuple[float, bool]] = {}
    for batch in _batches(module, by_input):
        n_kept = max(window.n_scored for input_ids in batch for window in by_input[input_ids])
        for input_ids, logits in zip(batch, last_logits(module, batch, n_kept), strict=True):
            logp = torch.log_softmax(logits, -1)
            scores |= {window: _score(logp, window) for window in by_input[input_ids]}
    return scores


def _score(logp: torch.Tensor, window: ScoringWindow) -> tuple[float, bool]:
    rows = logp[-window.n_scored :]  # (n_scored, V)
    ids = torch.tensor(window.ids[-window.n_scored :], device=rows.device)
    return float(rows.gather(1, ids[:, None]).sum()), bool((rows.argmax(-1) == ids).all())


def _batches(
    module: Any, by_input: Mapping[tuple[int, ...], Sequence[ScoringWindow]]
) -> Iterator[list[tuple[int, ...]]]:
    """Yield inputs that share a pass, longest first.

    On a CPU they have one length: padding would change the rounding, and costs time.
    """
    batch: list[tuple[int, ...]] = []
    n_kept = 0
    for input_ids in sorted(by_input, key=lambda ids: (-len(ids), ids)):
        n_mine = max(window.n_scored for window in by_input[input_ids])
        n_rows, longest = len(batch) + 1, len(batch[0]) if batch else len(input_ids)
        n_logits = n_rows * max(n_kept, n_mine) * module.config.get_text_config().vocab_size
        is_other = module.device.type == "cpu" and len(input_ids) != longest
        if batch and (is_other or n_rows * longest > PASS_TOKENS or n_logits > PASS_LOGITS):
            yield batch
            batch, n_kept = [], 0
        batch.append(input_ids)
        n_kept = max(n_kept, n_mine)
    if batch:
        yield batch


def last_logits(module: Any, batch: Sequence[tuple[int, ...]], n_kept: int) -> torch.Tensor:
    """Return the last `n_kept` logits of every row, or a few more. (rows, positions, V)"""
    longest, is_cpu = len(batch[0]), module.device.type == "cpu"
    n_kept = min(longest, max(n_kept, MIN_CPU_ROWS)) if is_cpu else n_kept
    copies = -(-MIN_CPU_ROWS // (n_kept * len(batch))) if is_cpu else 1
    lengths = torch.tensor([len(ids) for ids in batch] * copies, device=module.device)
    padded = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in batch] * copies, device=module.device)
    is_padded = any(len(ids) != longest for ids in batch)
    mask = (torch.arange(longest, device=padded.device) >= (longest - lengths)[:, None]).long() if is_padded else None
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    output = module(
        input_ids=padded, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=n_kept
    )
    logits: torch.Tensor = output.logits[: len(batch)]
    return logits
