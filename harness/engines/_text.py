"""From messages to token ids and from those to text, the same way in every engine that has the ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from harness.core.errors import ModelError
from harness.core.types import Message, Request
from harness.models.chat import prompt_ids

# What transformers writes where a tokenizer has no limit is far above it.
_NO_LIMIT = 10**9
_USUAL_CONTEXT = 2048


def read_prompts(
    tokenizer: Any, requests: Sequence[Request], context: int | None
) -> dict[tuple[Message, ...], list[int]]:
    """The ids of every prompt. One that does not fit is refused here, before anything is generated."""
    prompts: dict[tuple[Message, ...], list[int]] = {}
    for request in requests:
        if request.messages not in prompts:
            prompts[request.messages] = prompt_ids(tokenizer, request.messages)
    if context is not None:
        _refuse_long([(len(prompts[request.messages]), request) for request in requests], context)
    return prompts


def _refuse_long(asked: Sequence[tuple[int, Request]], context: int) -> None:
    """Every prompt with its budget must fit: which do not, and what would."""
    too_long = [(n, request) for n, request in asked if n + request.sampling.max_tokens > context]
    if not too_long:
        return
    n_prompt, longest = max(too_long, key=lambda item: item[0])
    names = dict.fromkeys(request.problem_id for _, request in too_long)
    others = f" (and {len(names) - 1} other problems don't fit)" if len(names) > 1 else ""
    room = context - n_prompt
    remedy = f"set --max-tokens (sampling.max_tokens) to at most {room}" if room > 0 else "leave it out"
    raise ModelError(
        f"the prompt of {longest.problem_id!r} has {n_prompt} tokens; with {longest.sampling.max_tokens} new ones it "
        f"exceeds the model's context of {context}{others}; {remedy}"
    )


def scored_context(config: Any, tokenizer: Any) -> int:
    """How many tokens a model reads: as its config says, or its tokenizer; 2,048 where neither does."""
    own = config.get_text_config()
    told = (getattr(own, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx"))
    length = next((length for length in told if length is not None), tokenizer.model_max_length)
    return int(length) if length < _NO_LIMIT else _USUAL_CONTEXT


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
