"""Convert messages to token ids, and token ids to text, the same way in every engine that has the ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from harness.core.errors import EngineError, ModelError
from harness.core.types import Message, Request

PLAIN = "plain"
"""The role of a single message that is the prompt itself, without any template."""

# transformers writes a far larger number where a tokenizer has no limit.
_NO_LIMIT = 10**9
_DEFAULT_CONTEXT = 2048


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Encode a prompt. The template alone decides about a leading BOS token, so there are never two."""
    ids = text_ids(tokenizer, *prompt_text(tokenizer, messages))
    if not ids:
        raise EngineError("a prompt is empty after the chat template; a model needs at least one token to begin")
    return ids


def prompt_text(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, bool]:
    """Return the prompt as text, and whether a template wrote it. A last message of the assistant is left open."""
    if len(messages) == 1 and messages[0].role == PLAIN:
        return messages[0].content, False
    if tokenizer.chat_template is None:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, so it is unknown how to write a prompt "
            "for it; set `chat_template` in its tokenizer_config.json"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    is_begun = messages[-1].role == "assistant"
    options = {"continue_final_message": True} if is_begun else {"add_generation_prompt": True}
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, **options)
    return text, True


def text_ids(tokenizer: Any, text: str, is_templated: bool) -> list[int]:
    """Encode a text. Plain text gets the special tokens that its tokenizer adds, but never a second BOS token."""
    bos = tokenizer.bos_token
    is_whole = is_templated or (bos is not None and text.startswith(bos))
    ids: list[int] = tokenizer(text, **({"add_special_tokens": False} if is_whole else {}))["input_ids"]
    return ids


def encode_prompts(
    tokenizer: Any, requests: Sequence[Request], context: int | None
) -> dict[tuple[Message, ...], list[int]]:
    """Encode every prompt. Raise ModelError, before anything is generated, if one does not fit into the context."""
    prompts: dict[tuple[Message, ...], list[int]] = {}
    for request in requests:
        if request.messages not in prompts:
            prompts[request.messages] = prompt_ids(tokenizer, request.messages)
    if context is not None:
        _check_lengths([(len(prompts[request.messages]), request) for request in requests], context)
    return prompts


def _check_lengths(lengths: Sequence[tuple[int, Request]], context: int) -> None:
    """Raise ModelError unless every prompt fits into the context together with its new tokens."""
    too_long = [(n, request) for n, request in lengths if n + request.sampling.max_tokens > context]
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


def context_length(config: Any, tokenizer: Any) -> int:
    """Return the context that a model's config declares, or else its tokenizer; 2,048 if neither does."""
    own = config.get_text_config()
    declared = (getattr(own, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx"))
    length = next((length for length in declared if length is not None), tokenizer.model_max_length)
    return int(length) if length < _NO_LIMIT else _DEFAULT_CONTEXT


def stop_ids(declared: int | Sequence[int] | None, tokenizer: Any) -> frozenset[int]:
    """Return every id that ends a sequence: the tokenizer's, and those of the model's generation config."""
    several = declared if isinstance(declared, (list, tuple)) else [declared]
    return frozenset(i for i in (*several, tokenizer.eos_token_id) if i is not None)


def decode_text(tokenizer: Any, ids: Sequence[int], ends: Collection[int], stops: Sequence[str]) -> str:
    """Decode a completion without its end token, up to the first stop string."""
    words = ids[:-1] if ids and ids[-1] in ends else ids
    text: str = tokenizer.decode(words, skip_special_tokens=True)
    for stop in stops:
        text = text.partition(stop)[0]
    return text
