"""From messages to token ids and from those to text, the same way in every engine that has the ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from harness.core.errors import EngineError
from harness.core.prompts import prompt_ids
from harness.core.types import Message, Request


def read_prompts(
    tokenizer: Any, requests: Sequence[Request], context: int | None
) -> dict[tuple[Message, ...], list[int]]:
    """The ids of every prompt. One that does not fit is refused here, before anything is generated."""
    prompts: dict[tuple[Message, ...], list[int]] = {}
    for request in requests:
        if request.messages not in prompts:
            prompts[request.messages] = prompt_ids(tokenizer, request.messages)
        n_prompt, n_new = len(prompts[request.messages]), request.sampling.max_tokens
        if context is not None and n_prompt + n_new > context:
            raise EngineError(
                f"the prompt of {request.problem_id!r} has {n_prompt} tokens; with {n_new} new ones it exceeds the "
                f"model's context of {context}; lower the maximal number of new tokens"
            )
    return prompts


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
