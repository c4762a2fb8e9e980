"""Rows that come and go: each begins at column 0 of the cache, and nothing of it depends on its company."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from harness.engines._attention import columns_read, takes_one_query
from harness.engines._batch import Batch, Row
from harness.engines._cache import SeatedCache, is_plain, new_cache

# On a processor a prompt is read in as many columns as its own length says, so that it is read alike in any company.
_COLUMNS = 8


def can_be_seated(module: Any) -> bool:
    """A model that is told positions and whose layers attend to everything before; on a processor by attention that
    gives a row the same in any company."""
    is_told = "position_ids" in inspect.signature(type(module).forward).parameters
    return is_told and is_plain(module.config) and (module.device.type != "cpu" or takes_one_query(module))


class Seats(Batch):
    lengths_differ = True

    def __init__(self, module: Any, prompts: Sequence[Sequence[int]], n_slots: int) -> None:
        super().__init__(module, prompts, n_slots)
        self._is_cpu = module.device.type == "cpu"
        # Several products in one call are made alike however many, but a single one by all threads together.
        self._min_cached = torch.get_num_threads() + 1 if self._is_cpu else 1
        self.cache = SeatedCache(module.config, max(n_slots, self._min_cached), module.device)

    def take(self, rows: Sequence[Row]) -> None:
        beside = {row.prompt: slot for slot, row in enumerate(self.slots) if row is not None}
        slots_of: dict[int, list[int]] = defaultdict(list)
        for slot, row in zip(self.free(), rows, strict=False):
            self.slots[slot] = row
            slots_of[row.prompt].append(slot)
        unread = {}
        for prompt, slots in slots_of.items():
            n_read = len(self._prompts[prompt]) - 1
            if n_read == 0 or prompt in beside:
                neighbour = beside.get(prompt, slots[0])
                self.cache.seat_beside(self._tensor(slots), self._tensor([neighbour]), n_read)
            else:
                unread[prompt] = n_read
        for width, prompts in self._by_width(unread).items():
            places = [(slot, i) for i, prompt in enumerate(prompts) for slot in slots_of[prompt]]
            slots_taken, of = self._tensor(places).T
            self.cache.seat(slots_taken, self._read(prompts, width), of)

    def _by_width(self, lengths: dict[int, int]) -> dict[int, list[int]]:
        """Prompts that share a pass, by its number of columns."""
        by_width: dict[int, list[int]] = defaultdict(list)
        for prompt, length in lengths.items():
            own = -(-length // _COLUMNS) * _COLUMNS
            by_width[own if self._is_cpu else max(lengths.values())].append(prompt)
        return by_width

    def _read(self, numbers: list[int], width: int) -> Any:
        prompts = [self._prompts[number] for number in numbers]
        copies = -(-self._min_rows // (len(prompts) * width))  # so that this pass too has rows enough
        padded = [[*prompt[:-1], *[0] * (width - len(prompt) + 1)] for prompt in prompts] * copies
        # Padding has no places of its own, of which a model may have no more.
        positions = torch.arange(width, device=self._module.device).clamp(max=max(map(len, prompts)) - 2)
        cache = new_cache(self._module.config)
        self._module.base_model(
            input_ids=self._tensor(padded),
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
        )
        return cache

    def keep(self, slots: list[int]) -> None:
        ballast = slots[:1] * (self._min_cached - len(slots))
        self.slots = [self.slots[slot] for slot in slots]
        self.cache.keep(self._tensor(slots + ballast))

    def _settings(self, lasts: list[int | None]) -> dict[str, Any]:
        longest = max(last for last in lasts if last is not None)
        # What is free is read like the longest, so that equal lengths need no mask.
        ends = [longest if last is None else last for last in lasts]
        columns = self._tensor(ends)
        width = columns_read(longest + 1) if self._is_cpu else longest + 1
        self.cache.ends.columns = columns[: max(len(self.slots), self._min_cached)]
        self.cache.ends.width = width
        is_full = width == longest + 1 == min(ends) + 1
        mask = None if is_full else torch.arange(width, device=columns.device) <= columns[:, None]
        if mask is not None and self._is_cpu:
            mask = mask[:, None, None]  # as attention takes it, which spares the model from making it
        return {"attention_mask": mask, "position_ids": columns[:, None]}
