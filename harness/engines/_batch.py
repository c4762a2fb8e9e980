"""Completions that are decoded side by side: a slot each, and one pass for the next token of all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from harness.core.types import FinishReason, Sampling
from harness.engines._attention import one_query_at_a_time
from harness.engines._sampling import draw

# On a processor, matrix products of few rows take another kernel, whose rounding differs in the last bit. Keeping
# at least this many rows (by adding some that nobody reads) makes a completion independent of the batch it is in.
MIN_CPU_ROWS = 32


@dataclass(slots=True)
class Row:
    """One completion being decoded."""

    request: int
    prompt: int
    seed: int
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


class Batch(ABC):
    """A slot of None is free. All but the last token of a prompt is read when its rows are taken, and that one in
    their first step, so that all logits come from steps of one shape."""

    cache: Any
    lengths_differ: ClassVar[bool]
    """Whether rows end at columns of their own, and must not depend on what others have behind theirs."""

    def __init__(self, module: Any, prompts: Sequence[Sequence[int]], n_slots: int) -> None:
        self._module = module
        self._prompts = prompts
        self.slots: list[Row | None] = [None] * n_slots
        self._min_rows = MIN_CPU_ROWS if module.device.type == "cpu" else 1

    @abstractmethod
    def take(self, rows: Sequence[Row]) -> None:
        """Read the prompts of these rows and give each a free slot."""

    @abstractmethod
    def keep(self, slots: list[int]) -> None:
        """Drop every other slot."""

    @abstractmethod
    def _settings(self, lasts: list[int | None]) -> dict[str, Any]:
        """Mask and positions of a pass that reads the token at this place of each row's sequence."""

    def live(self) -> list[int]:
        return [slot for slot, row in enumerate(self.slots) if row is not None]

    def free(self) -> list[int]:
        return [slot for slot, row in enumerate(self.slots) if row is None]

    def step(self, sampling: Sampling) -> tuple[list[int], list[float]]:
        """The next token of every slot, and its log-probability."""
        rows = [*self.slots, *[None] * (self._min_rows - len(self.slots))]
        ids, seeds, n_drawn = self._tensor([self._facts(row) for row in rows]).T
        with one_query_at_a_time(self._module, in_blocks=self.lengths_differ):
            output = self._module(
                input_ids=ids[:, None],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **self._settings([None if row is None else self._length(row) - 1 for row in rows]),
            )
        n_slots = len(self.slots)
        drawn, logp = draw(output.logits[:n_slots, -1], seeds[:n_slots], n_drawn[:n_slots], sampling)
        return drawn.tolist(), logp.tolist()

    def _facts(self, row: Row | None) -> tuple[int, int, int]:
        if row is None:
            return 0, 0, 0
        return row.ids[-1] if row.ids else self._prompts[row.prompt][-1], row.seed, len(row.ids)

    def _length(self, row: Row) -> int:
        return len(self._prompts[row.prompt]) + len(row.ids)

    def _tensor(self, numbers: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._module.device)
