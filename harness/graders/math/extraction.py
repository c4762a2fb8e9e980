"""Find the answer of a completion: after the reasoning, in the last box or on the last answer line.

Everything is linear in the length of the text. The later of box and line counts, so a text has one guess however many
answers it contains. Boxes separated by nothing but a comma, `and` or `or` are one list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.graders.math.notation import MAX_CHARACTERS

TAIL = 20_000
MAX_BOXES = 65

_BOX = re.compile(r"\\f?boxed *")
_LINE = re.compile(
    r"(?:^[ \t#>*_-]*|[.!?:,] +|\b(?:so|therefore|thus|hence|the|final|correct)[ ,]+)"
    r"(?:the )?(?:final |correct )?answer(?:\**:\**| is:?| =)[ *]*(?P<rest>[^\n]+)|^#### *(?P<marked>[^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
# After a box, a line counts only if it is nothing but the answer: prose often mentions "the answer" again.
_WHOLE_LINE = re.compile(
    r"^[ \t#>*_-]*(?:the )?(?:final |correct )?answer\**:[ *]*(?P<rest>[^\n]+)|^#### *(?P<marked>[^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_MATH = re.compile(r"\$\$?([^$\n]+)\$\$?|\\\(([^\n]+?)\\\)|\\\[([^\n]+?)\\\]")
_HOPE = re.compile(r"\.? *I hope (?:it|this) is correct.*$", re.IGNORECASE)
_CONNECTIVE = re.compile(r"(?:\\text ?\{ ?(?:and|or|,) ?\}|\\\\|\\quad|and|or|[\s$,;&*.]|\\[()\[\],;])*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"\S{1,40}")


@dataclass(frozen=True, slots=True)
class Found:
    """The text of the answer, or the reason why there is none; several texts if boxes form a list."""

    answers: tuple[str, ...]
    reason: str = ""


def answer_region(text: str, opening: str, closing: str, *, starts_inside: bool) -> str | None:
    """Return the text after the reasoning, or None if the reasoning never ends."""
    _, tag, after = text.rpartition(closing)
    if tag:
        return None if opening in after else after
    return None if starts_inside or opening in text else text


def find(region: str) -> Found:
    """Return the answer in a region. Never raises."""
    boxes, box_at = _last_boxes(region)
    if box_at >= 0:
        line = _last_line(_WHOLE_LINE, region, box_at)
    else:
        line = _last_line(_LINE, region, max(0, len(region) - TAIL))
    answers = boxes if line is None else [line]
    answers = [answer for answer in answers if answer.strip(" .…") not in ("", "\\ldots", "\\dots")]
    return Found(tuple(dict.fromkeys(answers)), "" if answers else "no answer")


def _last_boxes(region: str) -> tuple[list[str], int]:
    """Return the last box and those listed before it, in order, and the start of the last (-1 if there is none)."""
    start = region.rfind("\\boxed")
    start = max(start, region.rfind("\\fbox"))
    if start < 0:
        return [], -1
    last = _content(region, start)
    if last is None:
        return [], start
    contents, at, end_before = [last[0]], start, start
    while len(contents) < MAX_BOXES:
        at = region.rfind("\\boxed", 0, end_before)
        box = _content(region[:end_before], at) if at >= 0 else None
        if box is None or _CONNECTIVE.fullmatch(region, box[1], end_before) is None:
            break
        contents.append(box[0])
        end_before = at
    return contents[::-1], start


def _content(text: str, start: int) -> tuple[str, int] | None:
    """Return the content of the box that begins at `start` and its end, or None if it is not closed."""
    begin = _BOX.match(text, start)
    at = begin.end() if begin is not None else start + len("\\fbox")
    if text[at : at + 1] != "{":
        bare = _BARE.match(text, at)
        return (bare.group().rstrip("$.,"), bare.end()) if bare is not None else None
    level = 0
    limit = at + MAX_CHARACTERS + 2
    for mark in _BRACE.finditer(text, at, limit):
        level += {"{": 1, "}": -1}.get(mark.group(), 0)
        if level == 0:
            return text[at + 1 : mark.start()], mark.end()
    # A longer content exceeds the grader's limit, and is passed on as it is.
    return (text[at + 1 : limit], limit) if limit < len(text) else None


def _last_line(pattern: re.Pattern[str], region: str, start: int) -> str | None:
    """Return the content of the last answer line that begins after `start`."""
    last = None
    for last in pattern.finditer(region, start):  # noqa: B007
        pass
    if last is None:
        return None
    content = last.group("rest") if last.group("rest") is not None else last.group("marked")
    content = _HOPE.sub("", content[: 2 * MAX_CHARACTERS]).strip().strip("*").strip()
    maths = [group for groups in _MATH.findall(content) for group in groups if group]
    return maths[0] if len(maths) == 1 else content
