"""Key-value caches whose rows can be replaced one by one.

`SlottedCache` serves continuous batching. Every row starts at column 0 and has its own next column, so a slot can be
given to another completion at any step, and prompts are padded on the right. What a row holds does not depend on the
rest of the batch. `GroupCache` keeps the model's own kinds of layers, for models that the other one cannot serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# The layer without keys and values; older releases of transformers, such as verl's, have none.
_EMPTY_LAYER: Any = getattr(cache_utils, "DummyLayer", ())
# Columns allocated ahead: 64 tokens, and the columns that attention in blocks reads beyond the last one.
_HEADROOM = 80


@dataclass(slots=True)
class NextColumns:
    """For every row the column its next token is written to, and the number of columns that attention reads."""

    columns: torch.Tensor  # (rows,)
    width: int


class SlottedLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no types that hold
    """Keys and values of one layer, in a buffer that grows by halves instead of being copied for every token.

    A forward pass may have more rows than the buffer; the extra ones are padding of the batch and are dropped.
    A layer with a sliding window keeps every column, and its mask hides those outside the window.
    """

    def __init__(self, next_columns: NextColumns) -> None:
        super().__init__()
        self._next = next_columns
        self._buffers: list[torch.Tensor] = []
        # Columns that hold no uninitialised memory, which a weight of zero does not silence if it is NaN.
        self._n_clean = 0

    def get_seq_length(self) -> int:
        """Return the width minus one, because transformers adds the token being decoded."""
        return self._next.width - 1

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next token of every row, and return the columns to attend to."""
        columns, width = self._next.columns, self._next.width
        states = _in_attention_dtype([key_states, value_states])
        self._reserve(states, width)
        for buffer, new in zip(self._buffers, states, strict=True):
            rows, heads, n_columns, size = buffer.shape
            first = torch.arange(rows * heads, device=buffer.device).view(rows, heads) * n_columns
            places = (first + columns[:rows, None]).flatten()
            buffer.view(-1, size).index_copy_(0, places, new[:rows].reshape(-1, size))
        keys, values = (buffer[:, :, :width] for buffer in self._buffers)
        return keys, values

    def insert(self, rows: torch.Tensor, prompts: DynamicLayer, of: torch.Tensor) -> None:
        """Copy rows `of` of a layer that has read prompts into these rows."""
        states = _in_attention_dtype([prompts.keys, prompts.values])
        self._reserve(states, prompts.keys.shape[-2])
        self._write(rows, [new[of] for new in states])

    def copy_prefix(self, rows: torch.Tensor, sources: torch.Tensor, length: int) -> None:
        """Copy the first columns of other rows, which have the same prompt."""
        self._write(rows, [buffer[sources, :, :length] for buffer in self._buffers])

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, which may repeat, with as much headroom as before."""
        self._n_clean = self._next.width
        n_columns = self._buffers[0].shape[-2]
        held = [buffer[:, :, : self._n_clean][rows] for buffer in self._buffers]
        self._buffers = [_enlarged(states, len(rows), n_columns) for states in held]

    def _write(self, rows: torch.Tensor, states: Sequence[torch.Tensor]) -> None:
        for buffer, written in zip(self._buffers, states, strict=True):
            length = written.shape[-2]
            buffer[rows, :, :length] = written
            if length < self._n_clean:  # nothing of the slot's previous completion may stay
                buffer[rows, :, length : self._n_clean] = 0

    def _reserve(self, like: Sequence[torch.Tensor], width: int) -> None:
        rows = len(self._next.columns)
        if not self._buffers:
            self._buffers = [_enlarged(states[:0], rows, width + _HEADROOM) for states in like]
        elif (n_columns := self._buffers[0].shape[-2]) < width:
            n_columns = max(width + _HEADROOM, n_columns * 3 // 2)
            self._buffers = [_enlarged(buffer, rows, n_columns) for buffer in self._buffers]
        if self._n_clean < width:
            for buffer in self._buffers:
                buffer[:, :, self._n_clean : width] = 0
            self._n_clean = width


def _in_attention_dtype(states: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return float32 on a CPU under autocast, where attention between bfloat16 layers is computed in float32."""
    is_cast = states[0].device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return [new.float() for new in states] if is_cast else states


def _enlarged(held: torch.Tensor, rows: int, n_columns: int) -> torch.Tensor:
    enlarged = held.new_empty((rows, held.shape[1], n_columns, held.shape[-1]))
    enlarged[: len(held), :, : held.shape[-2]] = held
    return enlarged


class SlottedCache(DynamicCache):  # type: ignore[misc]
    """Rows that start and end independently of each other."""

    def __init__(self, model_config: Any, n_rows: int, device: torch.device) -> None:
        super().__init__(config=model_config)
        self.next = NextColumns(torch.zeros(n_rows, dtype=torch.long, device=device), 0)
        own: list[Any] = self.layers
        self.layers: list[Any] = [_slotted(layer, self.next) for layer in own]

    def insert(self, rows: torch.Tensor, prompts: DynamicCache, of: torch.Tensor) -> None:
        for layer, read in zip(self._slotted_layers(), _attention_layers(prompts), strict=True):
            layer.insert(rows, read, of)

    def copy_prefix(self, rows: torch.Tensor, sources: torch.Tensor, length: int) -> None:
        for layer in self._slotted_layers():
            layer.copy_prefix(rows, sources, length)

    def select(self, rows: torch.Tensor) -> None:
        self.next.columns = self.next.columns[rows]
        for layer in self._slotted_layers():
            layer.select(rows)

    def _slotted_layers(self) -> list[Any]:
        return _attention_layers(self)


def _slotted(layer: Any, next_columns: NextColumns) -> Any:
    return layer if isinstance(layer, _EMPTY_LAYER) else SlottedLayer(next_columns)


def _attention_layers(cache: DynamicCache) -> list[Any]:
    """Return the layers with keys and values of their own; others have none, or share those of another layer."""
    return [layer for layer in cache.layers if not isinstance(layer, _EMPTY_LAYER)]


def prompt_cache(model_config: Any) -> DynamicCache:
    """Return a cache that keeps every column of the prompts it reads, also of layers with a sliding window."""
    cache = DynamicCache(config=model_config)
    cache.layers = [DynamicLayer() if _is_sliding(layer) else layer for layer in cache.layers]
    return cache


def has_only_attention(model_config: Any) -> bool:
    """Whether the cache of a model consists of keys and values alone."""
    layers = DynamicCache(config=model_config).layers
    return bool(layers) and all(
        type(layer) is DynamicLayer or isinstance(layer, _EMPTY_LAYER) or _is_sliding(layer) for layer in layers
    )


def _is_sliding(layer: Any) -> bool:
    return type(layer) is DynamicSlidingWindowLayer


class GroupCache(DynamicCache):  # type: ignore[misc]
    """Rows that have equally long prompts and start together, in the model's own kinds of layers."""

    def __init__(self, model_config: Any) -> None:
        super().__init__(config=model_config)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, which may repeat."""
        for layer in self.layers:
            layer.reorder_cache(rows)
