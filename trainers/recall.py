"""What the linear layers gave the sampler, given again in training instead of being multiplied again.

Fresh completions are trained on with the weights that sampled them, so the first update of a step would multiply
what the sampler has multiplied: a quarter of all the arithmetic of a step. While the sampler runs in this process,
`recording` keeps the outputs of the layers, a row a token; `giving` puts those rows in the place of the products. The
gradient is that of the layer, from the input of this pass, and everything else is computed as ever, so results differ
by rounding alone. A token is known by all the tokens before it. As soon as a weight has changed, nothing is known.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.core.training import Batch

_UNKNOWN = -1


@dataclass(slots=True)
class _Layer:
    """A linear layer, and the outputs of it that are kept."""

    module: Any
    is_transposed: bool
    kept: Tensor  # (room, features)
    n_passes: int = 0

    def give(self, places: Tensor, inputs: Tensor) -> Tensor:
        weight, bias = self.module.weight, self.module.bias
        if torch.is_autocast_enabled("cpu"):  # as it would cast them
            inputs, weight = inputs.to(self.kept.dtype), weight.to(self.kept.dtype)
        if inputs.shape[:-1] != places.shape or inputs.dtype != self.kept.dtype:
            return self.multiply(inputs)
        arguments = (inputs, weight, bias, self.kept, places, self.is_transposed)
        given: Tensor = _Given.apply(*arguments)  # type: ignore[no-untyped-call]
        return given

    def multiply(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = type(self.module).forward(self.module, inputs)
        return outputs


@dataclass(slots=True)
class _Kept:
    """Where the outputs of one step's sampling are."""

    versions: list[tuple[int, int]]
    n_passes: int = 0
    n_places: int = 0
    shape: tuple[int, int] | None = None
    """Rows and tokens of the pass under way, if there is room for it."""
    first_places: dict[tuple[int, ...], int] = field(default_factory=dict)
    """Of a prompt, where its first token is; all but its last follow."""
    rows: dict[int, tuple[Sequence[int], Sequence[int], list[int]]] = field(default_factory=dict)
    """Of a completion: the prompt, its ids, and the places of the prompt's last token and of its own."""
    by_tokens: dict[tuple[int, ...], list[int]] | None = None


class Recall:
    """The outputs of a module's linear layers in the newest sampling, up to `max_bytes`.

    It keeps nothing on other devices than a processor and of weights in other types than float32, where they were not
    compared. Under autocast the outputs are bfloat16.
    """

    def __init__(self, module: Any, max_bytes: int, outputs: torch.dtype = torch.float32) -> None:
        self._module = module
        is_exact = module.device.type == "cpu" and module.dtype == torch.float32
        layers = _linear_layers(module) if is_exact else []
        n_features = sum(n_out for _, _, n_out in layers)
        self._room = max_bytes // (outputs.itemsize * n_features) if n_features else 0
        # What is never written to takes no memory.
        kept = [torch.empty(self._room, n_out, dtype=outputs) for _, _, n_out in layers if self._room]
        self._layers = [_Layer(*layer[:2], rows) for layer, rows in zip(layers, kept, strict=False)]
        self._kept = _Kept([])
        self.n_given = 0
        """Passes that products were given to."""

    # --- while the sampler runs

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Forget what was kept, and keep what is read now."""
        self._kept = _Kept(_versions(self._module))
        for layer in self._layers:
            layer.n_passes = 0
        with _instead(self._layers, self._multiply_and_keep):
            yield
        self._kept.shape = None

    def reads_prompts(self, prompts: Sequence[Sequence[int]], starts: Sequence[int], shape: tuple[int, int]) -> None:
        """The next pass, of so many rows and columns, reads all but the last token of each prompt, from its start."""
        first, width = self._kept.n_places, shape[1]
        if self._has_room(*shape):
            starting = zip(prompts, starts, strict=True)
            self._kept.first_places |= {tuple(p): first + i * width + start for i, (p, start) in enumerate(starting)}

    def reads_next(self, rows: Sequence[tuple[Sequence[int], Sequence[int]] | None]) -> None:
        """The next pass reads the last token of each row, a prompt and the completion that is growing behind it."""
        kept = self._kept
        first = kept.n_places
        if self._has_room(len(rows), 1):
            for place, row in enumerate(rows, first):
                if row is not None:
                    kept.rows.setdefault(id(row[1]), (*row, []))[2].append(place)

    def _has_room(self, n_rows: int, width: int) -> bool:
        kept = self._kept
        fits = kept.n_places + n_rows * width <= self._room
        kept.shape = (n_rows, width) if fits else None
        kept.n_passes += fits
        kept.n_places += n_rows * width  # once there was too little room, nothing is kept any more
        return fits

    def _multiply_and_keep(self, layer: _Layer, inputs: Tensor) -> Tensor:
        outputs, kept = layer.multiply(inputs), self._kept
        # A layer that is called twice in a pass, or not for every token, is not as often in step.
        is_in_step = layer.n_passes == kept.n_passes - 1 and outputs.dtype == layer.kept.dtype
        if kept.shape is not None and is_in_step and outputs.shape[:-1] == kept.shape:
            layer.kept[kept.n_places - outputs.shape[:-1].numel() : kept.n_places] = outputs.flatten(0, 1)
            layer.n_passes += 1
        elif kept.shape is not None:
            layer.n_passes = _UNKNOWN
        return outputs

    # --- in training

    def places(self, batch: Batch) -> Tensor:
        """Of each token that was read, where its outputs are; -1 in rows that are not known. (B, L)"""
        places = torch.full_like(batch.sequence_ids, _UNKNOWN)
        if not self._kept.n_passes or self._kept.versions != _versions(self._module):
            return places
        known = self._by_tokens()
        lengths = (batch.prompt_lengths + batch.completion_lengths).tolist()
        for row, (ids, length) in enumerate(zip(batch.sequence_ids.tolist(), lengths, strict=True)):
            found = known.get(tuple(ids[:length]))
            if found is not None:  # nothing looks at padding, but it has to be a number
                places[row] = torch.tensor(found + [0] * (len(ids) - len(found)))
        return places

    def _by_tokens(self) -> dict[tuple[int, ...], list[int]]:
        kept = self._kept
        if kept.by_tokens is None:
            kept.by_tokens = {}
            for prompt, ids, places in kept.rows.values():
                first = kept.first_places.get(tuple(prompt), 0)
                before = list(range(first, first + len(prompt) - 1))
                if len(places) == len(ids):  # the last token is not read
                    kept.by_tokens[*prompt, *ids] = before + places
        return kept.by_tokens

    @contextlib.contextmanager
    def giving(self, places: Tensor) -> Iterator[None]:
        """Inside, a pass over these tokens takes its products from where they are, if all are known. (B, L)"""
        in_step = [layer for layer in self._layers if layer.n_passes == self._kept.n_passes > 0]
        is_known = bool(in_step) and not bool((places == _UNKNOWN).any())
        self.n_given += is_known
        with _instead(in_step if is_known else [], lambda layer, inputs: layer.give(places, inputs)):
            yield

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, every pass multiplies for itself."""
        kept, self._kept = self._kept, _Kept([])
        try:
            yield
        finally:
            self._kept = kept


class _Given(torch.autograd.Function):
    """A linear layer whose output is read, not computed. Its gradient is the usual one."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, _: Tensor | None, kept: Tensor, places: Tensor, is_transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.is_transposed = is_transposed
        return kept.index_select(0, places.flatten()).view(*places.shape, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_outputs, flat = grad.flatten(0, -2), inputs.flatten(0, -2)
        grad_inputs = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_inputs = (of_outputs @ (weight.T if ctx.is_transposed else weight)).view_as(inputs)
        if ctx.needs_input_grad[1]:
            grad_weight = flat.T @ of_outputs if ctx.is_transposed else of_outputs.T @ flat
        grad_bias = of_outputs.sum(0) if ctx.needs_input_grad[2] else None
        return grad_inputs, grad_weight, grad_bias, None, None, None


@contextlib.contextmanager
def _instead(layers: Sequence[_Layer], forward: Any) -> Iterator[None]:
    """Inside, these layers call `forward(layer, inputs)`."""
    for layer in layers:
        layer.module.forward = functools.partial(forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.module.forward


def _linear_layers(module: Any) -> list[tuple[Any, bool, int]]:
    """Every plain one but the output layer: itself, whether its weight is (in, out), and its number of outputs."""
    from transformers.pytorch_utils import Conv1D

    body = [layer for layer in module.modules() if layer is not module.get_output_embeddings()]
    plain = [layer for layer in body if type(layer) in (torch.nn.Linear, Conv1D) and "forward" not in vars(layer)]
    return [(layer, type(layer) is Conv1D, layer.weight.shape[type(layer) is Conv1D]) for layer in plain]


def _versions(module: Any) -> list[tuple[int, int]]:
    """What is another whenever a weight is."""
    weights = [*module.parameters(), *module.buffers()]
    return [(weight.data_ptr(), weight._version) for weight in weights]
