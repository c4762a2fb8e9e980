"""Attention in float32 between layers in bfloat16, on a CPU.

Under autocast torch casts queries, keys and values to bfloat16. Its CPU kernel then takes three times as long for their
gradient as in float32. GPUs have kernels of their own for bfloat16, and are left as they are.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

FLOAT32_ATTENTION = "sdpa_float32"
"""The name in transformers' registry of attention functions. Code that accepts `sdpa` accepts it by the prefix."""


def attend_in_float32(module: Any) -> None:
    """Make this model, and no other, attend in float32 under autocast, if it uses torch's `sdpa` on a CPU."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = module.config.get_text_config()
    supported = getattr(module, "_supports_attention_backend", False)
    if supported and module.device.type == "cpu" and config._attn_implementation == "sdpa":
        AttentionInterface.register(FLOAT32_ATTENTION, fused_attention)
        AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)
        config._attn_implementation = FLOAT32_ATTENTION


def fused_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **settings: Any
) -> tuple[torch.Tensor, None]:
    """Call transformers' `sdpa`, with inputs in float32 where autocast would make them bfloat16."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    is_cast = query.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    states = [state.float() if is_cast else state for state in (query, key, value)]
    with torch.autocast("cpu", enabled=False) if is_cast else contextlib.nullcontext():
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(module, *states, attention_mask, **settings)
    return result
