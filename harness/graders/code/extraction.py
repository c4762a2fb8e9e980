"""Find the program in a reply, in time linear in its length."""

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
    """Return the text after the reasoning; empty if the reasoning never ends."""
    _, mark, answer = reply.rpartition(_END_OF_REASONING)
    if mark:
        return answer
    return "" if reply.lstrip().startswith(_START_OF_REASONING) else reply


def program_in(reply: str, language: Language = "python") -> str | None:
    """Return the last fenced block whose language fits or is not given, else the last block of any language.

    Without a fence the whole answer is the program. An unclosed block does not count, nor does a reply that never ends
    its reasoning.
    """
    answer = without_reasoning(reply)
    blocks = list(_blocks(answer))
    if not blocks:
        return answer if answer.strip() and not any(fence in answer for fence in _FENCES) else None
    fitting = [text for info, text in blocks if info.partition(" ")[0] in _TAGS[language]]
    return fitting[-1] if fitting else blocks[-1][1]


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield (info string, text) of each fenced block. A fence is closed by one of the same kind, at least as long,
    without an info string.
    """
    opened: str | None = None
    info, indent = "", 0
    inside: list[str] = []
    for line in text.split("\n"):
        bare = line.strip()
        if opened is None:
            if bare.startswith(_FENCES):
                opened = bare[: len(bare) - len(bare.lstrip(bare[0]))]
                info, inside = bare[len(opened) :].strip().lower(), []
                indent = len(line) - len(line.lstrip())
        elif bare.startswith(opened) and not bare.strip(opened[0]):
            yield info, "\n".join(inside)
            opened = None
        else:
            # A block within a list is indented as a whole.
            inside.append(line[indent:] if not line[:indent].strip() else line)


def official_program_in(reply: str) -> str:
    """Return the text between the last two fence lines, LiveCodeBench's rule; empty if there are fewer than two."""
    lines = reply.split("\n")
    fences = [place for place, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else ""
