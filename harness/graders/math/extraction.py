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
_LABEL = r"(?:(?:the )?(?:final |correct )?answer|(?:最终|最后)?答案)"
_BEGIN = r"^[ \t#>*_-]*"
# Each group is the first character of an answer: a line may hold many labels, and must not be copied for each.
# The label on a line of its own, and the answer on the next line with text.
_BELOW = rf"{_BEGIN}{_LABEL}[ \t*_]*(?:[:：][ \t*_]*)?\n\s*(?P<below>[^\n])"
_MARKED = r"(?:^|(?<=\s))#### *(?P<marked>[^\n])"
_LINE = re.compile(
    rf"{_BELOW}|(?:{_BEGIN}|[.!?:,] +|\b(?:so|therefore|thus|hence|the|final|correct)[ ,]+)"
    rf"(?:the )?(?:final |correct )?answer(?:\**[:：]\**| is[:：]?| =)[ *]*(?P<rest>[^\n])"
    rf"|答案(?:是|为)?\**[:：]?[ *]*(?P<chinese>[^\n])|{_MARKED}",
    re.IGNORECASE | re.MULTILINE,
)
# After a box, a line counts only if it is nothing but the answer: prose often mentions "the answer" again.
_WHOLE_LINE = re.compile(
    rf"{_BELOW}|{_BEGIN}{_LABEL}\**[:：][ *]*(?P<rest>[^\n])|{_MARKED}", re.IGNORECASE | re.MULTILINE
)
_OPEN_TAG, _CLOSE_TAG = "<answer>", "</answer>"
_MATH = re.compile(r"\$\$?([^$\n]+)\$\$?|\\\(([^\n]+?)\\\)|\\\[([^\n]+?)\\\]")
_DISPLAY = re.compile(r"^(?:\$\$|\\\[)\s*(.*?)\s*(?:\$\$|\\\])$", re.DOTALL)
_HOPE = re.compile(r"[.,]? {0,3}I hope (?:it|this) is correct.*$", re.IGNORECASE)
# What follows an answer in its sentence, and the sentences after it.
_REASON = re.compile(
    r"[,;]? {1,3}\(?(?:because|since|as (?:required|desired|expected|claimed|needed|wanted|requested|stated)"
    r"|as (?:asked|above|we)|which (?:is|was|gives|matches|means|completes|agrees|can))\b|[.!] +(?=[A-Z][a-z])"
)
_RETRACTION = re.compile(r"\b(?:wait|actually|hmm|hold on|correction|sorry|instead|rather|but|no,)", re.IGNORECASE)
# The marks of bold text; in `2**3` they are a power.
_BOLD = re.compile(r"\*\*(?![\w(])|(?<![\w)])\*\*")
_SIGN_BEHIND = re.compile(r"\*[.!,;]+$")
_CONNECTIVE = re.compile(r"(?:\\text ?\{ ?(?:and|or|,) ?\}|\\\\|\\quad|and|or|[\s$,;&*.]|\\[()\[\],;])*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"\S{1,40}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_GLUE = frozenset(("and", "or", "pi", "sqrt", "inf"))
MAX_BARE_CHARACTERS = 200


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


def find(region: str, *, is_cut: bool = False) -> Found:
    """Return the answer in a region. Never raises. A reply that was cut is never an answer as a whole."""
    boxes, box_at = _last_boxes(region)
    tag_at, tagged = _last_tag(region)
    if tag_at > box_at:
        inner = find(tagged)
        answers = list(inner.answers) if inner.answers else [tagged]
    else:
        pattern, start = (_WHOLE_LINE, box_at) if box_at >= 0 else (_LINE, max(0, len(region) - TAIL))
        line = _last_line(pattern, region, start, has_box=box_at >= 0)
        answers = [line] if line else boxes
        if not answers and box_at < 0 and not is_cut and (bare := _bare(region)) is not None:
            answers = [bare]
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


def _last_tag(region: str) -> tuple[int, str]:
    """Return the place and the content of the last `<answer>...</answer>`, or -1."""
    if "answer>" not in (lowered := region.lower()) or len(lowered) != len(region):
        return -1, ""
    end = lowered.rfind(_CLOSE_TAG)
    start = lowered.rfind(_OPEN_TAG, 0, max(end, 0))
    if start < 0:
        return -1, ""
    return start, region[start + len(_OPEN_TAG) : end].strip()[: 2 * MAX_CHARACTERS]


def _last_line(pattern: re.Pattern[str], region: str, start: int, *, has_box: bool) -> str | None:
    """Return the content of the last answer line that begins after `start`.

    A sentence may hold a later one: `The answer is 4. Wait, the answer is 5.` Below a box, the line under a label
    counts only if it is nothing but an answer.
    """
    last_at = -1
    while (found := pattern.search(region, start)) is not None:
        start = found.start(str(found.lastgroup))
        if not has_box or found.lastgroup != "below" or _bare(_rest_of_line(region, start)) is not None:
            last_at = start
    return _statement(_rest_of_line(region, last_at)) if last_at >= 0 else None


def _rest_of_line(text: str, start: int) -> str:
    end = text.find("\n", start, start + 2 * MAX_CHARACTERS)
    return text[start : end if end >= 0 else start + 2 * MAX_CHARACTERS]


def _statement(content: str) -> str:
    """Return the answer of an answer line without its emphasis, and without a reason or sentence behind it."""
    content = _HOPE.sub("", content)
    reason = _REASON.search(content)
    if reason is not None and _RETRACTION.search(content, reason.start()) is None:
        content = content[: reason.start()]
    content = _unmarked(content)
    maths = [group for groups in _MATH.findall(content) for group in groups if group]
    return maths[0] if len(maths) == 1 else content


def _unmarked(content: str) -> str:
    """Remove emphasis, and the sign of a sentence behind it."""
    content = _SIGN_BEHIND.sub("*", content.strip().rstrip("。！"))
    return _BOLD.sub("", content).strip().strip("*").strip()


def _bare(region: str) -> str | None:
    """Return a text that is nothing but an answer: one line, with at most one word."""
    text = region.strip()
    if len(text) > MAX_BARE_CHARACTERS:
        return None
    text = _unmarked(_HOPE.sub("", text))
    display = _DISPLAY.match(text)
    text = display.group(1) if display is not None else text
    words = [word for word in _WORD.findall(text.replace("\\text", "")) if word not in _GLUE]
    if not text or "\n" in text or "?" in text or len(words) > 1:
        return None
    maths = [group for groups in _MATH.findall(text) for group in groups if group]
    return maths[0] if len(maths) == 1 else text
