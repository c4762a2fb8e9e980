"""An objective's own parameters: none, or an MLP that reads one number from a hidden state (log Z, a value)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.protocols import Objective
from harness.core.tensors import ModelShape


class MlpHead(Objective):
    """Base of objectives whose only parameters are those of `head`, which `prepare` makes."""

    head: nn.Module

    def read_head(self, hidden: Tensor) -> Tensor:
        """Apply the head in its own precision. (..., H) -> (...)"""
        parameter = next(self.head.parameters())
        values: Tensor = self.head(hidden.to(parameter.dtype))[..., 0]
        return values

    def state_dict(self) -> Mapping[str, Any]:
        return self.head.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(state)


def mlp_head(
    shape: ModelShape,
    n_layers: int,
    seed: int,
    *,
    width: int | None = None,
    dropout: float = 0.0,
    zero_init: bool = True,
) -> nn.Sequential:
    """Build an MLP from a hidden state to one number: Linear, GELU, LayerNorm, Dropout, repeated, then Linear.

    With `zero_init` the last layer starts at 0, and so does the output. torch's global generator is left untouched.
    """
    inner = width if width is not None else shape.hidden_size
    sizes = [shape.hidden_size] + [inner] * (n_layers - 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.GELU(), nn.LayerNorm(n_out), nn.Dropout(dropout)]
        last = nn.Linear(sizes[-1], 1)
    if zero_init:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last).to(shape.device)
