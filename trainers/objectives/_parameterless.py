"""What an objective without parameters of its own has to say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.training import ModelShape, ParameterGroup


class Parameterless:
    """Nothing to prepare, to optimise or to store."""

    def prepare(self, shape: ModelShape, seed: int) -> None:
        pass

    def parameters(self) -> Sequence[ParameterGroup]:
        return ()

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
