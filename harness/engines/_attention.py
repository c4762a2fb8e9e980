"""Attention of one new token on a processor: two matrix products, the same to the bit in any batch.

torch's fused kernel splits the keys of a single query by batch size and threads, so its rounding depends on the
company a row is in; and for one query it costs twice as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "harness_one_query"


def one_query_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **settings: Any
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; what is not a plain single query goes to the fused kernel."""
    n_keys = key.shape[-2]
    is_plain = query.shape[-2] == 1 and settings.get("position_bias") is None and settings.get("softcap") is None
    if not is_plain or (attention_mask is not None and attention_mask.dtype != torch.bool):
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **settings
        )
        return output
    scaling = settings.get("scaling")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    # The queries of one key-value head side by side: (B, heads of keys, queries each, D).
    grouped = (query * scale).reshape(query.shape[0], key.shape[1], -1, query.shape[-1])
    scores = grouped @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[..., :n_keys], -torch.inf)
    attended = torch.softmax(scores, -1) @ value
    return attended.reshape(query.shape[0], 1, query.shape[1], value.shape[-1]), None


@contextmanager
def one_query_at_a_time(module: Any) -> Iterator[None]:
    """Inside, a model on a processor that uses the fused kernel decodes with `one_query_attention`."""
    config = module.config.get_text_config()
    used = config._attn_implementation
    if module.device.type != "cpu" or used != "sdpa":
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = used


AttentionInterface.register(NAME, one_query_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
