"""From token ids to the text of a completion, the same way in every engine that has the ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def stop_ids(declared: int | Sequence[int] | None, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a sequence: the tokenizer's, and those of the model's generation config."""
    several = declared if isinstance(declared, (list, tuple)) else [declared]
    return frozenset(i for i in (*several, tokenizer.eos_token_id) if i is not None)


def text_of(tokenizer: Any, ids: Sequence[int], ends: Collection[int], stops: Sequence[str]) -> str:
    """The ids without a closing end token as text, up to the first stop string."""
    words = ids[:-1] if ids and ids[-1] in ends else ids
    text: str = tokenizer.decode(words, skip_special_tokens=True)
    for stop in stops:
        text = text.partition(stop)[0]
    return text
