"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: the policy is W + alpha / rank * B A, with W frozen.

peft replaces layers in place, so the model keeps its class. Only A and B are trained; B starts at zero, so the policy
starts as the model itself. Everything that leaves the trainer has the adapters merged: the tensors for engines, and
checkpoints, which are models like any other and have the adapters on their own in `adapter/`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.core import extras
from harness.core.errors import ConfigError, RunFolderError
from harness.trainers.config import LoraConfig

ADAPTER_FOLDER = "adapter"
_FILE = "adapter_model.safetensors"
_NAME = "default"
_IN_FILES = "base_model.model."


class Adapters:
    """The adapters of a module: created in it from a seed, merged, saved, loaded and switched off."""

    def __init__(self, module: Any, config: LoraConfig, seed: int, base: str) -> None:
        peft = extras.require("lora", "[lora]")
        _refuse_tables(module, config.target_modules)
        self._module = module
        self._settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=list(config.target_modules) if config.target_modules else "all-linear",
            lora_dropout=0.0,  # the policy that is trained is the policy that samples
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                peft.inject_adapter_in_model(self._settings, module, _NAME)
            except ValueError as error:
                raise ConfigError(f"lora.target_modules: {error}") from None
        layer_type = peft.tuners.tuners_utils.BaseTunerLayer
        self._layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, layer_type)}
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()  # half precision would swallow small updates

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the adapters by their names in the module."""
        return {name: p for name, p in self._module.named_parameters() if _is_of_adapter(name)}

    def merged_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights under the model's own names, with the adapters merged into them."""
        for name, tensor in self._module.state_dict().items():
            layer_name, _, leaf = name.rpartition(".base_layer.")
            if not layer_name:
                if not _is_of_adapter(name):
                    yield name, tensor
            elif leaf == "weight":
                with torch.no_grad():
                    yield f"{layer_name}.{leaf}", self._merged(self._layers[layer_name])
            else:
                yield f"{layer_name}.{leaf}", tensor

    def _merged(self, layer: Any) -> Tensor:
        weight: Tensor = layer.base_layer.weight
        merged: Tensor = weight.float() + layer.get_delta_weight(_NAME)
        return merged.to(weight.dtype)

    # --- files

    def save_pretrained(self, folder: Path) -> None:
        """Save the merged model, and the adapters as peft and vLLM read them in `adapter/`."""
        self.write(folder, dict(self.merged_tensors()), self.parameters())

    def write(self, folder: Path, merged: Mapping[str, Tensor], adapters: Mapping[str, Tensor]) -> None:
        """Write the files, given the whole weights."""
        # A file of adapters in the folder itself would make transformers look for the base model.
        self._module.save_pretrained(folder, state_dict=dict(merged))
        own = folder / ADAPTER_FOLDER
        self._settings.save_pretrained(own)
        save_file({_name_in_file(name): p.detach().contiguous() for name, p in adapters.items()}, own / _FILE)

    def load(self, checkpoint: Path) -> None:
        path = checkpoint / ADAPTER_FOLDER / _FILE
        try:
            saved = load_file(path)
            with torch.no_grad():
                for name, parameter in self.parameters().items():
                    parameter.copy_(saved[_name_in_file(name)])
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise RunFolderError(
                f"{path} does not hold these adapters ({error}); resume with the [lora] settings that the run was "
                "started with, or remove this checkpoint if it is damaged"
            ) from None

    # --- the base model

    @contextlib.contextmanager
    def switched_off(self) -> Iterator[None]:
        for layer in self._layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.enable_adapters(True)

    @contextlib.contextmanager
    def replaced_by(self, others: Mapping[str, Tensor]) -> Iterator[None]:
        own = {name: p.data for name, p in self.parameters().items()}
        for name, parameter in self.parameters().items():
            parameter.data = others[name]
        try:
            yield
        finally:
            for name, parameter in self.parameters().items():
                parameter.data = own[name]


class AdapterReference:
    """A reference that shares the policy's base weights: without adapters, or once it was reset with its own."""

    def __init__(self, policy: Any, adapters: Adapters) -> None:
        self._policy, self._adapters = policy, adapters
        self._own: dict[str, Tensor] | None = None

    @property
    def module(self) -> AdapterReference:
        """The holder of the state: only the adapters, where a reference of its own is a whole model."""
        return self

    def forward(self, batch: Any, needs: Any) -> Any:
        adapters = self._adapters
        with adapters.switched_off() if self._own is None else adapters.replaced_by(self._own):
            return self._policy.forward(batch, needs)

    def state_dict(self) -> Mapping[str, Tensor]:
        return self._own if self._own is not None else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load from the state of the whole policy, or from that of a reference."""
        names = self._adapters.parameters()
        self._own = {name: state[name].detach().to(p.device, copy=True) for name, p in names.items()}


def n_parameters(module: Any, config: LoraConfig) -> int:
    """Return how many parameters the adapters of this module would have; it may be on the meta device."""
    from transformers.pytorch_utils import Conv1D

    tables = {module.get_input_embeddings(), module.get_output_embeddings()}
    adapted = [
        layer
        for name, layer in module.named_modules()
        if isinstance(layer, (torch.nn.Linear, Conv1D))
        and layer not in tables
        and (not config.target_modules or _is_named(name, config.target_modules))
    ]
    return sum(config.rank * sum(layer.weight.shape) for layer in adapted)


def _is_of_adapter(name: str) -> bool:
    return ".lora_" in name


def _name_in_file(name: str) -> str:
    return _IN_FILES + name.replace(f".{_NAME}.", ".")


def _refuse_tables(module: Any, wanted: Sequence[str]) -> None:
    """Refuse embeddings and the output layer: they are often one matrix, which can't be adapted in one place only."""
    tables = {module.get_input_embeddings(), module.get_output_embeddings()}
    for name, layer in module.named_modules():
        if layer in tables and _is_named(name, wanted):
            raise ConfigError(f"lora.target_modules names {name}; leave out the embeddings and the output layer")


def _is_named(name: str, wanted: Sequence[str]) -> bool:
    return any(name == some or name.endswith(f".{some}") for some in wanted)
