"""torch.compile for the layers of the policy, with shapes that change from one micro-batch to the next."""

from __future__ import annotations

from typing import Any

import torch

from harness.core.errors import ConfigError


class CompiledBody:
    """The compiled layers of a module under the attribute that `forward_full` calls. The module itself is unchanged."""

    def __init__(self, module: Any) -> None:
        refuse_where_nothing_compiles(module.device)
        self.config = module.config
        self._body: Any = torch.compile(module.base_model, dynamic=True)

    def base_model(self, *, input_ids: torch.Tensor, **settings: Any) -> Any:
        # A size of 1 would be compiled as a constant, and once more for other sizes: pad to 2, which is cheap.
        n_rows, width = input_ids.shape
        padded = torch.nn.functional.pad(input_ids, (0, max(0, 2 - width), 0, max(0, 2 - n_rows)))
        output = self._body(input_ids=padded, **settings)
        output.last_hidden_state = output.last_hidden_state[:n_rows, :width]
        return output


def refuse_where_nothing_compiles(device: torch.device) -> None:
    """Compile one line now, so that a missing compiler is reported before the run and not in its first step."""
    try:
        torch.compile(lambda x: x.sin() + 1, dynamic=True)(torch.ones(4, device=device))
    except Exception as error:  # a compiler's tools raise errors of many types
        lines = str(error).strip().splitlines()
        cause = lines[0] if lines else type(error).__name__
        raise ConfigError(
            f"loop.compile needs torch.compile, which does not work here ({cause}); "
            "install a C++ compiler (g++) for processors or triton for GPUs, or leave loop.compile off"
        ) from None
