"""Gradient checkpointing: layers forget their activations and compute them again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from harness.core.errors import ModelError


def recomputed_layers(module: Any) -> Sequence[Any]:
    """Switch checkpointing on in the model; the layers that will obey when they are in training."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not getattr(module, "supports_gradient_checkpointing", False):
        raise ModelError(
            f"{type(module).__name__} has no gradient checkpointing; leave loop.gradient_checkpointing off"
        )
    # What it was called first; where there is a new name, the old one warns.
    old_name = "gradient_checkpointing_enable"
    enable = getattr(module, "activation_checkpointing_enable", None) or getattr(module, old_name)
    enable({"use_reentrant": False})
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


@contextlib.contextmanager
def in_training(layers: Sequence[Any]) -> Iterator[None]:
    """These layers say that they are in training, and what is in them does not: dropout stays off.

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
