"""Attention of one new token on a processor: matrix products that are the same to the bit in any batch.

torch's fused kernel splits the keys of a single query by batch size and threads, so its rounding depends on the
company a row is in; and for one query it costs twice as much. In blocks, a row's result is also the same however many
masked columns follow its own, as long as there are so many as `columns_read` says.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME, NAME_IN_BLOCKS = "harness_one_query", "harness_one_query_in_blocks"
_BLOCK = 16  # columns; products with fewer than two blocks of keys take another kernel
_MANY_QUERIES = 4


def one_query_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    in_blocks: bool = False,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; what is not a plain single query goes to the fused kernel.

    Queries of which there are no keys are there to fill the batch, and get zeros.
    """
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            query, key, value = query.float(), key.float(), value.float()
            return one_query_attention(module, query, key, value, attention_mask, in_blocks=in_blocks, **settings)
    n_rows, n_keys = len(key), key.shape[-2]
    is_plain = query.shape[-2] == 1 and settings.get("position_bias") is None and settings.get("softcap") is None
    query, n_missing = query[:n_rows], len(query) - n_rows
    mask = attention_mask if attention_mask is None else attention_mask[:n_rows]
    if not is_plain or (mask is not None and mask.dtype != torch.bool):
        attended, _ = sdpa_attention_forward(module, query, key, value, mask, **settings)
        return _with_zeros(attended, n_missing), None
    scaling = settings.get("scaling")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    # The queries of one key-value head side by side: (rows, heads of keys, queries each, D).
    grouped = (query * scale).reshape(n_rows, key.shape[1], -1, query.shape[-1])
    scores = grouped @ key.transpose(-1, -2)
    if mask is not None:
        scores.masked_fill_(~mask[..., :n_keys], -torch.inf)
    weights = torch.softmax(scores, -1)
    attended = _sum_in_blocks(weights, value) if in_blocks else weights @ value
    return _with_zeros(attended.reshape(n_rows, 1, query.shape[1], -1), n_missing), None


def _with_zeros(attended: torch.Tensor, n_missing: int) -> torch.Tensor:
    return torch.nn.functional.pad(attended, (0, 0, 0, 0, 0, 0, 0, n_missing)) if n_missing else attended


def _sum_in_blocks(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(rows, heads, queries, columns) and (rows, heads, columns, D).

    Few queries are summed column by column, whatever the number of columns, so that zeros at the end change nothing.
    More take kernels that differ with the size, so all sizes are made alike: blocks of columns with fixed borders.
    """
    if weights.shape[-2] < _MANY_QUERIES or weights.dtype != torch.float32:  # others would be rounded in each block
        return weights @ values
    flat_weights, flat_values = weights.flatten(0, 1), values.flatten(0, 1)
    total = flat_weights.new_zeros(*flat_weights.shape[:2], values.shape[-1])
    for start, end in _blocks(values.shape[-2]):
        total.baddbmm_(flat_weights[..., start:end], flat_values[:, start:end])
    return total


def columns_read(n_columns: int) -> int:
    """So many columns that they are whole blocks, and at least two."""
    return max(2 * _BLOCK, *(end for _, end in _blocks(n_columns)))


def _blocks(n_columns: int) -> Iterator[tuple[int, int]]:
    """Blocks that hold so many columns: 16 of the least size, then 8 of twice that, 8 of twice that, and so on."""
    start = 0
    while start < n_columns:
        end = start + max(_BLOCK, 1 << (start.bit_length() - 4) if start else 0)
        yield start, end
        start = end


def takes_one_query(module: Any) -> bool:
    """Whether `one_query_at_a_time` changes anything."""
    return bool(module.device.type == "cpu" and module.config.get_text_config()._attn_implementation == "sdpa")


@contextmanager
def one_query_at_a_time(module: Any, *, in_blocks: bool) -> Iterator[None]:
    """Inside, a model on a processor that uses the fused kernel decodes with `one_query_attention`."""
    if not takes_one_query(module):
        yield
        return
    config = module.config.get_text_config()
    used = config._attn_implementation
    config._attn_implementation = NAME_IN_BLOCKS if in_blocks else NAME
    try:
        yield
    finally:
        config._attn_implementation = used


AttentionInterface.register(NAME, one_query_attention)
AttentionInterface.register(NAME_IN_BLOCKS, functools.partial(one_query_attention, in_blocks=True))
for _name in (NAME, NAME_IN_BLOCKS):
    AttentionMaskInterface.register(_name, sdpa_mask)
