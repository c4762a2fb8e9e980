"""Key-value caches for decoding: one prefill per prompt, room ahead, rows that leave when they are done."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no types that hold
    """A layer that grows by halves instead of copying itself for every token."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._key_room: torch.Tensor | None = None
        self._value_room: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held = self.keys.shape[-2] if self.is_initialized else 0
        length = held + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._key_room is None or self._key_room.shape[-2] < length:
            room = max(length + _ROOM, length * 3 // 2)
            self._key_room = _enlarged(self.keys, key_states, held, room)
            self._value_room = _enlarged(self.values, value_states, held, room)
        assert self._value_room is not None
        self._key_room[..., held:length, :] = key_states
        self._value_room[..., held:length, :] = value_states
        self.keys = self._key_room[..., :length, :]
        self.values = self._value_room[..., :length, :]
        return self.keys, self.values

    def keep(self, rows: torch.Tensor) -> None:
        """Rows by index, repeats allowed, with as much room ahead as there was."""
        if self._key_room is None or self._value_room is None:
            self.keys, self.values = self.keys[rows], self.values[rows]
            return
        held, room = self.keys.shape[-2], self._key_room.shape[-2]
        chosen_keys, chosen_values = self.keys[rows], self.values[rows]  # the room has nothing to copy yet
        self._key_room = _enlarged(chosen_keys, chosen_keys, held, room)
        self._value_room = _enlarged(chosen_values, chosen_values, held, room)
        self.keys, self.values = self._key_room[..., :held, :], self._value_room[..., :held, :]


def _enlarged(held_states: torch.Tensor, like: torch.Tensor, held: int, room: int) -> torch.Tensor:
    enlarged = like.new_empty((*like.shape[:-2], room, like.shape[-1]))
    if held:
        enlarged[..., :held, :] = held_states
    return enlarged


def new_cache(model_config: Any) -> DynamicCache:
    """A roomy cache where every layer attends to everything, else the model's own kind."""
    cache = DynamicCache(config=model_config)
    if cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


def keep_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    for layer in cache.layers:
        if isinstance(layer, RoomyLayer):
            layer.keep(rows)
        else:
            layer.batch_select_indices(rows)
