"""Decoding as a policy is trained in bfloat16: autocast in the layers, and logits in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def layers_in_bfloat16(module: Any) -> Iterator[None]:
    """Weights are cast once, when they are first read inside; so stay inside for many steps, and change no weight."""
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
