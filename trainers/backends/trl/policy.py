"""The policy as TRL's trainer holds it: wrapped by accelerate, with TRL's fused output layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import RunFolderError
from harness.core.protocols import Need
from harness.core.tensors import Batch, ModelShape, PolicyOutputs
from harness.trainers.backends.trl.world import World
from harness.trainers.policy.lora import Adapters
from harness.trainers.policy.model import Policy, outputs_of, spread, states_of

_OF_STATES: frozenset[Need] = frozenset({"prompt_hidden", "prompt_last_hidden", "completion_hidden"})
DEEPSPEED_FOLDER = "deepspeed"
"""Part of a checkpoint, in DeepSpeed's own format."""
_IGNORED = -100
"""The label of a position that is not scored."""


class WrappedPolicy(Policy):
    """Runs the forward pass that accelerate wrapped, for the gradient of DDP, FSDP2 or DeepSpeed to be exchanged.

    The hidden states that an objective reads are caught on their way from the layers to the output layer.
    """

    def __init__(self, module: Any, world: World, adapters: Adapters | None, device: torch.device) -> None:
        self.module = module
        """The model without a wrapper; FSDP2 shards it in place."""
        self.wrapped = module
        self.engine: Any = None
        """DeepSpeed's engine, where it holds the weights."""
        self._adapters = adapters
        self.world = world
        self._device = device

    @property
    def shape(self) -> ModelShape:
        return ModelShape(hidden_size=self.module.config.hidden_size, device=str(self._device))

    def forward(self, batch: Batch, needs: frozenset[Need]) -> PolicyOutputs:
        ids = batch.sequence_ids
        rows, offsets = batch.completion_mask.nonzero(as_tuple=True)
        positions = batch.prompt_lengths[rows] + offsets
        labels = torch.full_like(ids, _IGNORED).index_put((rows, positions), ids[rows, positions])
        with self._catching_states() as caught:
            # Padding is at the right, where a causal model does not look: no attention mask.
            output = self.wrapped(input_ids=ids, labels=labels, fused_lm_head=True)
        logp = output.log_probs[rows, positions - 1]  # at a token, that of the next one
        entropy = output.entropy[rows, positions - 1] if "entropy" in needs else None
        if needs & _OF_STATES:
            return outputs_of(batch, states_of(batch, caught[0].float()), logp, entropy, needs)
        mask = batch.completion_mask
        return PolicyOutputs(spread(logp, mask), entropy=spread(entropy, mask) if entropy is not None else None)

    @contextlib.contextmanager
    def _catching_states(self) -> Iterator[list[Tensor]]:
        caught: list[Tensor] = []
        hook = self.module.base_model.register_forward_hook(
            lambda _module, _inputs, output: caught.append(output.last_hidden_state)
        )
        try:
            yield caught
        finally:
            hook.remove()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the whole weights under the model's own names. Every process must take part where they are sharded."""
        for name, tensor in super().tensors():
            yield name, whole(tensor)

    def save_pretrained(self, folder: Path) -> None:
        """Save a model of Hugging Face's format. Every process takes part, and the first one writes."""
        state, adapters = None, {}
        if self.is_sharded:
            tied = self.module.all_tied_weights_keys  # gathered on their own, they would be saved twice
            state = {name: tensor.detach().cpu() for name, tensor in self.tensors() if name not in tied}
            own = self._adapters.parameters() if self._adapters is not None else {}
            adapters = {name: whole(tensor).detach().cpu() for name, tensor in own.items()}
        if self.engine is not None:
            self.world.wait()  # for the folder, which the first process makes
            self.engine.save_checkpoint(str(folder / DEEPSPEED_FOLDER))
        if not self.world.is_main:
            return
        if state is None:
            super().save_pretrained(folder)
        elif self._adapters is not None:
            self._adapters.write(folder, state, adapters)
        else:
            self.module.save_pretrained(folder, state_dict=state)

    def restore_engine(self, checkpoint: Path) -> None:
        """Load what DeepSpeed saved of its optimiser. Every process takes part."""
        if self.engine is None:
            return
        folder = checkpoint / DEEPSPEED_FOLDER
        found, _ = self.engine.load_checkpoint(str(folder)) if folder.exists() else (None, None)
        if found is None:
            raise RunFolderError(
                f"{folder} holds no state of DeepSpeed for this number of processes: resume with as many as saved it, "
                "or with the strategy that did"
            )

    @property
    def is_sharded(self) -> bool:
        """Whether no process has the whole weights."""
        return any(hasattr(parameter, "full_tensor") for parameter in self.module.parameters())


def whole(tensor: Any) -> Tensor:
    """Return the whole of a tensor that FSDP2 may have sharded. Every process must take part."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full
