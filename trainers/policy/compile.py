"""torch.compile for the layers of the policy, with shapes that change from one micro-batch to the next."""

from __future__ import annotations

from typing import Any

import torch

from harness.models.loading import check_compiler


class CompiledBody:
    """The compiled layers of a module under the attribute that `forward_full` calls. The module itself is unchanged."""

    def __init__(self, module: Any) -> None:
        check_compiler(module.device, "loop.compile")
        self.config = module.config
        self._body: Any = torch.compile(module.base_model, dynamic=True)

    def base_model(self, *, input_ids: torch.Tensor, **settings: Any) -> Any:
        # A size of 1 would be compiled as a constant, and once more for other sizes: pad to 2, which is cheap.
        n_rows, width = input_ids.shape
        padded = torch.nn.functional.pad(input_ids, (0, max(0, 2 - width), 0, max(0, 2 - n_rows)))
        output = self._body(input_ids=padded, **settings)
        output.last_hidden_state = output.last_hidden_state[:n_rows, :width]
        return output
