"""torch.compile for the body of the policy, with shapes that may change from one micro-batch to the next."""

from __future__ import annotations

from typing import Any

import torch

from harness.core.errors import ConfigError


class CompiledBody:
    """The module's body, compiled, where the reading of a batch looks for it. The module itself stays as it was."""

    def __init__(self, module: Any) -> None:
        refuse_where_nothing_compiles(module.device)
        self.config = module.config
        self._body: Any = torch.compile(module.base_model, dynamic=True)

    def base_model(self, *, input_ids: torch.Tensor, **settings: Any) -> Any:
        # A size of 1 would be taken for a constant, and compiled once more: a row or token of nothing is cheap.
        n_rows, width = input_ids.shape
        padded = torch.nn.functional.pad(input_ids, (0, max(0, 2 - width), 0, max(0, 2 - n_rows)))
        output = self._body(input_ids=padded, **settings)
        output.last_hidden_state = output.last_hidden_state[:n_rows, :width]
        return output


def refuse_where_nothing_compiles(device: torch.device) -> None:
    """Compile one line here and now: a missing compiler is said before the run, not in its first step."""
    try:
        torch.compile(lambda x: x.sin() + 1, dynamic=True)(torch.ones(4, device=device))
    except Exception as error:  # whatever the tools of a compiler raise, it does not work here
        lines = str(error).strip().splitlines()
        told = lines[0] if lines else type(error).__name__
        raise ConfigError(
            f"loop.compile needs torch.compile, which does not work here ({told}); "
            "install a C++ compiler (g++) for processors or triton for GPUs, or leave loop.compile off"
        ) from None
