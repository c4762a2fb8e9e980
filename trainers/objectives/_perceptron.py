"""A small perceptron from hidden states to one number, for log Z and for values."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from harness.core.training import ModelShape


def perceptron(
    shape: ModelShape,
    n_layers: int,
    seed: int,
    *,
    width: int | None = None,
    dropout: float = 0.0,
    from_zero: bool = True,
) -> nn.Sequential:
    """Linear, GELU, LayerNorm, dropout, repeated; then a linear layer to one number, which is 0 at first `from_zero`.

    torch's random stream is left as it was.
    """
    inner = width if width is not None else shape.hidden_size
    sizes = [shape.hidden_size] + [inner] * (n_layers - 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.GELU(), nn.LayerNorm(after), nn.Dropout(dropout)]
        last = nn.Linear(sizes[-1], 1)
    if from_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last).to(shape.device)
