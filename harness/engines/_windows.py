"""Rows that begin together, padded before their prompts: for any kind of cache, and the quickest where all fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from harness.engines._batch import Batch, Row
from harness.engines._cache import is_plain, new_cache

_ROOM = 64


class Window(Batch):
    """Its rows are taken once. Slots are never fewer than a pass has rows."""

    lengths_differ = False

    def take(self, rows: Sequence[Row]) -> None:
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
        prompts = [self._prompts[prompt] for prompt in numbers]
        longest = max(map(len, prompts))
        self._width = longest - 1
        self.cache = _roomy_cache(self._module.config)
        if longest > 1:
            self._read(prompts, longest)
        of = [numbers[row.prompt] for row in rows]
        ballast = max(0, self._min_rows - len(rows))
        self.slots = [*rows, *[None] * ballast]
        self._select(of + of[:1] * ballast)
        self._before = [longest - len(prompts[i]) for i in of] + [0] * ballast

    def _read(self, prompts: Sequence[Sequence[int]], longest: int) -> None:
        copies = -(-self._min_rows // (len(prompts) * (longest - 1)))  # so that this pass too has rows enough
        before = [longest - len(prompt) for prompt in prompts] * copies
        padded = [[0] * (longest - len(prompt)) + list(prompt[:-1]) for prompt in prompts] * copies
        mask = self._mask(before, longest - 1)
        if self._onlooker is not None:
            self._onlooker.reads_prompts(prompts, before[: len(prompts)], (len(padded), longest - 1))
        self._module.base_model(
            input_ids=self._tensor(padded),
            attention_mask=mask,
            position_ids=None if mask is None else (mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
        )

    def _mask(self, before: list[int], width: int) -> torch.Tensor | None:
        if not any(before):
            return None
        return (torch.arange(width, device=self._module.device) >= self._tensor(before)[:, None]).long()

    def _select(self, rows: list[int]) -> None:
        if self._width > 0:
            for layer in self.cache.layers:
                layer.batch_select_indices(self._tensor(rows))

    def keep(self, slots: list[int]) -> None:
        if len(self.slots) <= self._min_rows:
            return
        ballast = max(0, self._min_rows - len(slots))
        kept = slots + slots[:1] * ballast
        self._select(kept)
        self._before = [self._before[slot] for slot in kept]
        self.slots = [self.slots[slot] for slot in slots] + [None] * ballast

    def _settings(self, lasts: list[int | None]) -> dict[str, Any]:
        self._width += 1
        mask = self._mask(self._before, self._width)
        positions = None if mask is None else self._tensor([last if last is not None else 0 for last in lasts])[:, None]
        return {"attention_mask": mask, "position_ids": positions}


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
        if torch.is_autocast_enabled(key_states.device.type):  # between layers in bfloat16, attention is float32
            key_states, value_states = key_states.float(), value_states.float()
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

    def batch_select_indices(self, rows: torch.Tensor) -> None:
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


def _roomy_cache(model_config: Any) -> DynamicCache:
    """One with room ahead where every layer attends to everything, else the model's own kind."""
    cache = new_cache(model_config)
    if is_plain(model_config):
        cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache
