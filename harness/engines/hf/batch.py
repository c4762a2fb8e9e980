"""Continuous batching: a slot for each completion being decoded, and one forward pass for the next token of all.

Where the model allows it, a completion may join at any step and next to completions of other lengths (`SlottedCache`).
Other models, such as those with a recurrent state, decode completions with equally long prompts that start together
(`GroupCache`). `docs/decisions/009-one-batcher.md` has the measurements.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.core.types import FinishReason, Sampling
from harness.engines.hf.attention import columns_read, decoding, uses_one_query
from harness.engines.hf.cache import GroupCache, SlottedCache, has_only_attention, prompt_cache
from harness.engines.hf.sampling import draw

# On a CPU, matrix products of few rows use another kernel, which rounds differently in the last bit. Padding every
# pass to this many rows makes a completion independent of the size of its batch.
MIN_CPU_ROWS = 32
# On a CPU the columns of a prompt are rounded up to a multiple of this, whatever other prompts are read with it.
_PROMPT_COLUMNS = 8


@dataclass(slots=True)
class DecodingSlot:
    """One completion being decoded."""

    request: int
    prompt: int
    seed: int
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


def mixes_lengths(module: Any) -> bool:
    """Whether completions of different lengths can be decoded in one batch."""
    takes_positions = "position_ids" in inspect.signature(type(module).forward).parameters
    return takes_positions and has_only_attention(module.config)


class DecodeBatch:
    """The completions being decoded; a slot of None is free.

    All but the last token of a prompt is read on admission, and the last one in the first step, so that all logits
    come from steps of one shape. With `in_blocks`, a completion has the same bits in any batch on a CPU.
    """

    def __init__(self, module: Any, prompts: Sequence[Sequence[int]], n_slots: int, *, in_blocks: bool) -> None:
        self._module = module
        self._prompts = prompts
        self.slots: list[DecodingSlot | None] = [None] * n_slots
        self._is_cpu = module.device.type == "cpu"
        self._in_blocks = in_blocks and uses_one_query(module)
        self._min_rows = MIN_CPU_ROWS if self._is_cpu else 1
        self._mixes = mixes_lengths(module)
        # Our own attention leaves out the rows that are padding, but a single product would be split over all threads.
        self._min_cached = torch.get_num_threads() + 1 if self._mixes and uses_one_query(module) else self._min_rows
        self.cache: Any = self._new_cache()

    def _new_cache(self) -> Any:
        if not self._mixes:
            return GroupCache(self._module.config)
        return SlottedCache(self._module.config, max(len(self.slots), self._min_cached), self._module.device)

    def live(self) -> list[int]:
        return [slot for slot, row in enumerate(self.slots) if row is not None]

    def free(self) -> list[int]:
        return [slot for slot, row in enumerate(self.slots) if row is None]

    # --- joining and leaving ------------------------------------------------------------------------------------------

    def admit(self, rows: Sequence[DecodingSlot]) -> None:
        """Read the prompts of these completions and give each a free slot."""
        sources = {row.prompt: slot for slot, row in enumerate(self.slots) if row is not None}
        slots_of: dict[int, list[int]] = defaultdict(list)
        for slot, row in zip(self.free(), rows, strict=False):
            self.slots[slot] = row
            slots_of[row.prompt].append(slot)
        if not self._mixes:
            self._read_group(slots_of)
            return
        unread = {}
        for prompt, slots in slots_of.items():
            n_read = len(self._prompts[prompt]) - 1
            if n_read == 0 or prompt in sources:
                source = sources.get(prompt, slots[0])
                self.cache.copy_prefix(self._tensor(slots), self._tensor([source]), n_read)
            else:
                unread[prompt] = n_read
        for width, prompts in self._by_width(unread).items():
            places = [(slot, i) for i, prompt in enumerate(prompts) for slot in slots_of[prompt]]
            taken, of = self._tensor(places).T
            self.cache.insert(taken, self._read(prompts, width, prompt_cache(self._module.config)), of)

    def _read_group(self, slots_of: dict[int, list[int]]) -> None:
        prompts = list(slots_of)
        width = len(self._prompts[prompts[0]]) - 1
        if width == 0:
            return
        self._read(prompts, width, self.cache)
        number = {slot: i for i, prompt in enumerate(prompts) for slot in slots_of[prompt]}
        self.cache.select(self._tensor(self._padded([number[slot] for slot in sorted(number)], self._min_rows)))

    def _by_width(self, lengths: dict[int, int]) -> dict[int, list[int]]:
        """Group prompts that share a pass by its number of columns."""
        by_width: dict[int, list[int]] = defaultdict(list)
        for prompt, length in lengths.items():
            own = -(-length // _PROMPT_COLUMNS) * _PROMPT_COLUMNS
            by_width[own if self._is_cpu else max(lengths.values())].append(prompt)
        return by_width

    def _read(self, numbers: Sequence[int], width: int, cache: Any) -> Any:
        prompts = [self._prompts[number] for number in numbers]
        copies = -(-self._min_rows // (len(prompts) * width))  # so that this pass has enough rows, too
        padded = [[*prompt[:-1], *[0] * (width - len(prompt) + 1)] for prompt in prompts] * copies
        settings = {}
        if self._mixes:
            # A model may have no more positions than the longest prompt needs, so padding repeats the last one.
            positions = torch.arange(width, device=self._module.device).clamp(max=max(map(len, prompts)) - 2)
            settings["position_ids"] = positions[None]
        self._module.base_model(input_ids=self._tensor(padded), past_key_values=cache, use_cache=True, **settings)
        return cache

    def keep(self, slots: list[int]) -> None:
        """Drop every other slot."""
        if not self._mixes and len(self.slots) <= self._min_rows:
            return  # no row of the pass would go
        self.slots = [self.slots[slot] for slot in slots]
        self.cache.select(self._tensor(self._padded(slots, self._min_cached)))

    @staticmethod
    def _padded(rows: list[int], least: int) -> list[int]:
        return rows + rows[:1] * (least - len(rows))

    # --- one token for all --------------------------------------------------------------------------------------------

    def step(self, sampling: Sampling) -> tuple[list[int], list[float]]:
        """Return the next token of every slot and its log-probability."""
        rows = [*self.slots, *[None] * (self._min_rows - len(self.slots))]
        ids, seeds, n_drawn = self._tensor([self._facts(row) for row in rows]).T
        columns, settings = self._place(rows) if self._mixes else (None, {})
        with decoding(self._module, columns, in_blocks=self._in_blocks):
            output = self._module(
                input_ids=ids[:, None], past_key_values=self.cache, use_cache=True, logits_to_keep=1, **settings
            )
        n_slots = len(self.slots)
        drawn, logp = draw(output.logits[:n_slots, -1], seeds[:n_slots], n_drawn[:n_slots], sampling)
        return drawn.tolist(), logp.tolist()

    def _place(self, rows: Sequence[DecodingSlot | None]) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Set the column of every row; return the columns for the masks, if they differ, and the model's arguments."""
        lasts = [None if row is None else self._length(row) - 1 for row in rows]
        longest = max(last for last in lasts if last is not None)
        # A free slot is treated like the longest, so that equal lengths need no mask.
        ends = [longest if last is None else last for last in lasts]
        columns = self._tensor(ends)
        width = columns_read(longest + 1) if self._in_blocks else longest + 1
        self.cache.next.columns = columns[: max(len(self.slots), self._min_cached)]
        self.cache.next.width = width
        if width == min(ends) + 1:
            return None, {"position_ids": columns[:, None]}
        mask = torch.arange(width, device=columns.device) <= columns[:, None]
        return self.cache.next.columns, {"position_ids": columns[:, None], "attention_mask": mask.long()}

    def _facts(self, row: DecodingSlot | None) -> tuple[int, int, int]:
        if row is None:
            return 0, 0, 0
        return row.ids[-1] if row.ids else self._prompts[row.prompt][-1], row.seed, len(row.ids)

    def _length(self, row: DecodingSlot) -> int:
        return len(self._prompts[row.prompt]) + len(row.ids)

    def _tensor(self, numbers: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._module.device)
