"""Rows that begin together, padded before their prompts: for any kind of cache, and the quickest where all fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.engines._batch import Batch, Row
from harness.engines._cache import roomy_cache


class Window(Batch):
    """Its rows are taken once. Slots are never fewer than a pass has rows."""

    lengths_differ = False

    def take(self, rows: Sequence[Row]) -> None:
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
        prompts = [self._prompts[prompt] for prompt in numbers]
        longest = max(map(len, prompts))
        self._width = longest - 1
        self.cache = roomy_cache(self._module.config)
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
