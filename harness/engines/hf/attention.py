"""Attention of one new token in a batch whose rows end at different columns.

The masks that a model builds take every row's query to be at the same column; `decoding` puts each at its own.

On a CPU it also replaces torch's fused kernel by matrix products that give a row the same bits in any batch. The fused
kernel splits the keys of a single query by batch size and number of threads, so that its rounding depends on the other
rows; and for one query it takes twice as long. Summing in blocks makes the result independent of the number of masked
columns as well, if the width is one of those that `columns_read` returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

NAME, NAME_IN_BLOCKS = "harness_one_query", "harness_one_query_in_blocks"
_BLOCK = 16  # columns; products with fewer than two blocks of keys use another kernel
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
    """Compute scaled dot-product attention; anything but a plain single query goes to the fused kernel.

    Queries without keys are padding of the batch, and get zeros.
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
    # Queries of one key-value head next to each other: (rows, key heads, queries of each, D).
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
    """Multiply (rows, heads, queries, columns) by (rows, heads, columns, D).

    Few queries are summed column by column whatever the number of columns, so zeros at the end change nothing.
    More queries use kernels that differ with the size, so all sizes are cut at the same columns.
    """
    if weights.shape[-2] < _MANY_QUERIES or weights.dtype != torch.float32:  # others would be rounded in each block
        return weights @ values
    flat_weights, flat_values = weights.flatten(0, 1), values.flatten(0, 1)
    total = flat_weights.new_zeros(*flat_weights.shape[:2], values.shape[-1])
    for start, end in _blocks(values.shape[-2]):
        total.baddbmm_(flat_weights[..., start:end], flat_values[:, start:end])
    return total


def columns_read(n_columns: int) -> int:
    """Return the number of columns rounded up to whole blocks, two at least."""
    return max(2 * _BLOCK, *(end for _, end in _blocks(n_columns)))


def _blocks(n_columns: int) -> Iterator[tuple[int, int]]:
    """Yield blocks that cover these columns: 16 of the smallest size, then 8 of twice that, 8 of twice that, ..."""
    start = 0
    while start < n_columns:
        end = start + max(_BLOCK, 1 << (start.bit_length() - 4) if start else 0)
        yield start, end
        start = end


def uses_one_query(module: Any) -> bool:
    """Whether `decoding` replaces the attention of this model."""
    supported = getattr(module, "_supports_attention_backend", False)
    # A policy trained in bfloat16 has an `sdpa` with a name of its own: see trainers/policy/precision.py.
    uses_sdpa = _text_config(module)._attn_implementation.startswith("sdpa")
    return bool(supported and module.device.type == "cpu" and uses_sdpa)


@contextmanager
def decoding(module: Any, query_columns: torch.Tensor | None, *, in_blocks: bool) -> Iterator[None]:
    """Within this context, decode one token a row with the queries at these columns (None: all at the last one)."""
    config = _text_config(module)
    used = config._attn_implementation
    if uses_one_query(module):
        config._attn_implementation = NAME_IN_BLOCKS if in_blocks else NAME
    try:
        with _masks_by_row(config._attn_implementation, query_columns) if query_columns is not None else nullcontext():
            yield
    finally:
        config._attn_implementation = used


@contextmanager
def _masks_by_row(name: str, query_columns: torch.Tensor) -> Iterator[None]:
    """Within this context, transformers builds the masks of this attention implementation with `_mask_by_row`."""
    make_mask = ALL_MASK_ATTENTION_FUNCTIONS.get(name)
    if make_mask is None:  # an implementation without masks
        yield
        return
    ALL_MASK_ATTENTION_FUNCTIONS[name] = functools.partial(_mask_by_row, make_mask, query_columns)
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS[name]  # which uncovers the registered one


def _mask_by_row(
    make_mask: Callable[..., Any], query_columns: torch.Tensor, *, mask_function: Callable[..., Any], **arguments: Any
) -> Any:
    """Build a mask as transformers does, with the query of each row at its own column.

    It has as many rows as the cache, which may be fewer than those of the pass.
    """

    def with_own_column(row: Any, head: Any, _: Any, column: Any) -> Any:
        return mask_function(row, head, query_columns[row], column)

    own = {"batch_size": len(query_columns), "allow_is_causal_skip": False}
    return make_mask(mask_function=with_own_column, **{**arguments, **own})


def _text_config(module: Any) -> Any:
    return module.config.get_text_config()


AttentionInterface.register(NAME, one_query_attention)
AttentionInterface.register(NAME_IN_BLOCKS, functools.partial(one_query_attention, in_blocks=True))
for _name in (NAME, NAME_IN_BLOCKS):
    AttentionMaskInterface.register(_name, sdpa_mask)
