"""Gradient checkpointing: layers drop their activations and compute them again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from harness.core.errors import ModelError


def enable_checkpointing(module: Any) -> Sequence[Any]:
    """Enable checkpointing in the model; return its layers, which checkpoint only in training mode."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not getattr(module, "supports_gradient_checkpointing", False):
        raise ModelError(
            f"{type(module).__name__} has no gradient checkpointing; leave loop.gradient_checkpointing off"
        )
    # transformers has renamed this method; where the new name exists, the old one warns.
    old_name = "gradient_checkpointing_enable"
    enable = getattr(module, "activation_checkpointing_enable", None) or getattr(module, old_name)
    enable({"use_reentrant": False})
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


@contextlib.contextmanager
def checkpointing(layers: Sequence[Any]) -> Iterator[None]:
    """Put these layers, but not their submodules, into training mode: they checkpoint, and dropout stays off.

    Without gradient there is nothing to recompute, and the layers are left as they are.
    """
    chosen = layers if torch.is_grad_enabled() else []
    for layer in chosen:
        layer.training = True
    try:
        yield
    finally:
        for layer in chosen:
            layer.training = False
