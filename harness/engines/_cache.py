"""Key-value caches with room ahead.

In one rows begin at column 0 and end each where it ends, so that a row is seated at any time: what a row holds depends
on nobody else in the cache, as prompts are padded behind, never before. In the other rows begin together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 80  # columns ahead: for 64 tokens, and what is read beyond them


@dataclass(slots=True)
class Ends:
    """Of every row, the column that its next token is written to; and how many columns are read."""

    columns: torch.Tensor  # (rows,)
    width: int


class SeatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no types that hold
    """Grows by halves instead of copying itself for every token. Rows of a pass that it has no row for are dropped."""

    def __init__(self, ends: Ends) -> None:
        super().__init__()
        self._ends = ends
        self._rooms: list[torch.Tensor] = []
        self._n_clean = 0
        """Columns of which none holds what memory happens to hold, which a weight of zero need not silence."""

    def get_seq_length(self) -> int:
        """As many that, with the one that is read next, all the columns of a step are there."""
        return self._ends.width - 1

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next token of every row, and give what is read."""
        columns, width = self._ends.columns, self._ends.width
        self._make_room((key_states, value_states), width)
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            rows, heads, n_columns, size = room.shape
            first = torch.arange(rows * heads, device=room.device).view(rows, heads) * n_columns
            places = (first + columns[:, None]).flatten()
            room.view(-1, size).index_copy_(0, places, states[:rows].reshape(-1, size))
        keys, values = (room[:, :, :width] for room in self._rooms)
        return keys, values

    def seat(self, rows: torch.Tensor, layer: DynamicLayer, of: torch.Tensor) -> None:
        """Put rows `of` of a layer that has read prompts into these rows."""
        self._make_room((layer.keys, layer.values), layer.keys.shape[-2])
        self._write(rows, [layer.keys[of], layer.values[of]])

    def seat_beside(self, rows: torch.Tensor, neighbours: torch.Tensor, length: int) -> None:
        """Give these rows the first columns of others, which have the same prompt."""
        self._write(rows, [room[neighbours, :, :length] for room in self._rooms])

    def _write(self, rows: torch.Tensor, states: Sequence[torch.Tensor]) -> None:
        for room, written in zip(self._rooms, states, strict=True):
            length = written.shape[-2]
            room[rows, :, :length] = written
            if length < self._n_clean:  # nothing may be left of who sat here before
                room[rows, :, length : self._n_clean] = 0

    def keep(self, rows: torch.Tensor) -> None:
        """These rows alone, repeats allowed, with as much room ahead as there was."""
        self._n_clean = self._ends.width
        held = [room[:, :, : self._n_clean][rows] for room in self._rooms]
        self._rooms = [_enlarged(states, len(rows), self._rooms[0].shape[-2]) for states in held]

    def _make_room(self, like: Sequence[torch.Tensor], width: int) -> None:
        rows = len(self._ends.columns)
        if not self._rooms:
            self._rooms = [_enlarged(states[:0], rows, width + _ROOM) for states in like]
        elif (n_columns := self._rooms[0].shape[-2]) < width:
            self._rooms = [_enlarged(room, rows, max(width + _ROOM, n_columns * 3 // 2)) for room in self._rooms]
        if self._n_clean < width:
            for room in self._rooms:
                room[:, :, self._n_clean : width] = 0
            self._n_clean = width


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Rows that begin together: a layer that grows by halves, too, and that rows can leave."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = [key_states, value_states]
        # Between layers in bfloat16, attention is float32 on a processor.
        if key_states.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            states = [new.float() for new in states]
        if not self.is_initialized:
            self.lazy_initialization(*states)
        held = self.keys.shape[-2] if self._rooms else 0
        length = held + key_states.shape[-2]
        if not self._rooms:
            self._rooms = [_enlarged(new[..., :0, :], len(new), length + _ROOM) for new in states]
        elif self._rooms[0].shape[-2] < length:
            self._rooms = [_enlarged(room, len(room), max(length + _ROOM, length * 3 // 2)) for room in self._rooms]
        for room, new in zip(self._rooms, states, strict=True):
            room[..., held:length, :] = new
        self.keys, self.values = (room[..., :length, :] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """Rows by index, repeats allowed, with as much room ahead as there was."""
        chosen = [held[rows] for held in (self.keys, self.values)]  # the room has nothing to copy yet
        self._rooms = [_enlarged(held, len(rows), self._rooms[0].shape[-2]) for held in chosen]
        self.keys, self.values = (room[..., : chosen[0].shape[-2], :] for room in self._rooms)


def _enlarged(held: torch.Tensor, rows: int, n_columns: int) -> torch.Tensor:
    enlarged = held.new_empty((rows, held.shape[1], n_columns, held.shape[-1]))
    enlarged[: len(held), :, : held.shape[-2]] = held
    return enlarged


class SeatedCache(DynamicCache):  # type: ignore[misc]
    def __init__(self, model_config: Any, n_rows: int, device: torch.device) -> None:
        super().__init__(config=model_config)
        self.ends = Ends(torch.zeros(n_rows, dtype=torch.long, device=device), 0)
        self.layers: list[SeatedLayer] = [SeatedLayer(self.ends) for _ in range(len(new_cache(model_config).layers))]

    def seat(self, rows: torch.Tensor, read: DynamicCache, of: torch.Tensor) -> None:
        for layer, of_prompts in zip(self.layers, read.layers, strict=True):
            layer.seat(rows, of_prompts, of)

    def seat_beside(self, rows: torch.Tensor, neighbours: torch.Tensor, length: int) -> None:
        for layer in self.layers:
            layer.seat_beside(rows, neighbours, length)

    def keep(self, rows: torch.Tensor) -> None:
        self.ends.columns = self.ends.columns[rows]
        for layer in self.layers:
            layer.keep(rows)


def new_cache(model_config: Any) -> DynamicCache:
    """The model's own kind."""
    return DynamicCache(config=model_config)


def roomy_cache(model_config: Any) -> DynamicCache:
    """One with room ahead where every layer attends to everything, else the model's own kind."""
    cache = new_cache(model_config)
    if is_plain(model_config):
        cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


def is_plain(model_config: Any) -> bool:
    """Whether every layer of a model attends to everything before."""
    layers = new_cache(model_config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
