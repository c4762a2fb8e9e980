"""Attention in float32 between layers in bfloat16, on a processor.

Under autocast torch casts queries, keys and values to bfloat16, and its kernel for processors then takes three times as
long for their gradient as in float32. GPUs have kernels of their own for it, and there it is left as it is.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def attend_in_float32() -> None:
    """From now on, in every model of this process that uses the fused kernel, wherever autocast is on."""
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", fused_attention)


def fused_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **settings: Any
) -> tuple[torch.Tensor, None]:
    """That of transformers, with inputs in float32 where a processor would take them in bfloat16."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    is_cast = query.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    states = [state.float() if is_cast else state for state in (query, key, value)]
    with torch.autocast("cpu", enabled=False) if is_cast else contextlib.nullcontext():
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(module, *states, attention_mask, **settings)
    return result
