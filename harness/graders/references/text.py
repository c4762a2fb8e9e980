"""A free-text answer that a judge compares by meaning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextReference:
    """The question as it was asked, the right answer, and other wordings of it."""

    question: str
    text: str
    aliases: tuple[str, ...] = ()
