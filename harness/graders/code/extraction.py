"""Finds the program in a reply, in time linear in the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.core.types import Language

_END_OF_REASONING = "</think>"
_START_OF_REASONING = "<think>"
_FENCES = ("```", "~~~")
_TAGS: Mapping[Language, tuple[str, ...]] = {
    "python": ("", "python", "python3", "py", "py3"),
    "cpp": ("", "cpp", "c++", "cc", "cxx", "c", "cpp17", "c++17", "cpp20", "c++20"),
}


def without_reasoning(reply: str) -> str:
    """What follows the reasoning; nothing where it was never ended."""
    _, mark, answer = reply.rpartition(_END_OF_REASONING)
    if mark:
        return answer
    return "" if reply.lstrip().startswith(_START_OF_REASONING) else reply


def program_in(reply: str, language: Language = "python") -> str | None:
    """The last fenced block that is in the language or says nothing of one, else the last block at all.

    Without any fence the whole answer is taken for a program. A block that was never closed is none, nor is a reply
    that never came to its answer.
    """
    answer = without_reasoning(reply)
    blocks = list(_blocks(answer))
    if not blocks:
        return answer if answer.strip() and not any(fence in answer for fence in _FENCES) else None
    fitting = [text for said, text in blocks if said.partition(" ")[0] in _TAGS[language]]
    return fitting[-1] if fitting else blocks[-1][1]


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """(what its fence says, text) of each fenced block: its language, and maybe more. A fence is closed by one of its
    kind that is as long and says nothing."""
    opened: str | None = None
    said, indent = "", 0
    inside: list[str] = []
    for line in text.split("\n"):
        bare = line.strip()
        if opened is None:
            if bare.startswith(_FENCES):
                opened = bare[: len(bare) - len(bare.lstrip(bare[0]))]
                said, inside = bare[len(opened) :].strip().lower(), []
                indent = len(line) - len(line.lstrip())
        elif bare.startswith(opened) and not bare.strip(opened[0]):
            yield said, "\n".join(inside)
            opened = None
        else:
            # A block within a list is indented as a whole.
            inside.append(line[indent:] if not line[:indent].strip() else line)


def official_program_in(reply: str) -> str:
    """LiveCodeBench's rule: what stands between the last two lines with a fence, nothing where there is one or none."""
    lines = reply.split("\n")
    fences = [place for place, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else ""
