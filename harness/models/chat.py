"""Messages to token ids: through the chat template, or as the text they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.core.errors import EngineError, ModelError
from harness.core.types import Message

PLAIN = "plain"
"""The role of a lone message that is the prompt itself, without any template."""


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The prompt as the model reads it. The template alone decides about a leading BOS, so there are never two."""
    ids = text_ids(tokenizer, *prompt_text(tokenizer, messages))
    if not ids:
        raise EngineError("a prompt is empty after the chat template; a model needs at least one token to begin")
    return ids


def prompt_text(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, bool]:
    """The prompt as text, and whether a template wrote it. What the assistant has begun to say is left open."""
    if len(messages) == 1 and messages[0].role == PLAIN:
        return messages[0].content, False
    if tokenizer.chat_template is None:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, so it is unknown how to write a prompt "
            "for it; set `chat_template` in its tokenizer_config.json"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    is_begun = messages[-1].role == "assistant"
    how = {"continue_final_message": True} if is_begun else {"add_generation_prompt": True}
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, **how)
    return text, True


def text_ids(tokenizer: Any, text: str, is_templated: bool) -> list[int]:
    """The ids of a text. Plain text gets the special tokens that its tokenizer adds, and never a second BOS."""
    bos = tokenizer.bos_token
    is_whole = is_templated or (bos is not None and text.startswith(bos))
    ids: list[int] = tokenizer(text, **({"add_special_tokens": False} if is_whole else {}))["input_ids"]
    return ids
