"""Messages to token ids, through the chat template alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.core.errors import EngineError, ModelError
from harness.core.types import Message


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The prompt as the model reads it. The template alone decides about a leading BOS, so there are never two."""
    if tokenizer.chat_template is None:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, so it is unknown how to write a prompt "
            "for it; set `chat_template` in its tokenizer_config.json"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise EngineError("a prompt is empty after the chat template; a model needs at least one token to begin")
    return ids
