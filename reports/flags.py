"""Flags on samples that a person should look at: signs that a verdict is about the format, or that a model went astray.

The functions are pure: they see one sample and what is known about its problem. A flag is a hint, never a verdict.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from harness.core.types import Outcome
from harness.reports.protocol_card import grader_of
from harness.reports.run_config import run_config
from harness.reports.run_facts import task_ids
from harness.runs.folder import RunReader
from harness.runs.index import Count, StoredReason, VerdictLine, for_each_line, line_decoder, no_collections

END = 300
"""Characters at the end of a text in which a short answer counts as given."""
SHORT = 3
"""Answers of at most so many characters are in most texts by chance."""
LONGEST_ANSWER = 200
LOOP, LEAST_LOOP, FEWEST_LOOPS = 4000, 200, 4
"""Characters at the end that are searched for a loop, the fewest of a loop, and how often a part is repeated in it."""
LEAST_LINE, FEWEST_LINES = 20, 8
"""A line of so many characters that is there so often is repeated text."""
SPRAY = 4
"""So many different final answers in one text."""
ECHO = 80
"""Characters of the prompt that are in the text word by word."""

# Bounded, so that no text takes longer than its length.
BOXED = re.compile(r"\\boxed\s{0,9}\{([^{}]{0,200}(?:\{[^{}]{0,200}\}[^{}]{0,200}){0,9})\}")
ANSWER_LINE = re.compile(
    r"^[^\w\n]{0,20}(?:the[ \t]{1,9})?(?:final[ \t]{1,9})?answer\b[ \t]{0,9}(?:is)?[ \t]{0,9}[:=]?[ \t]{0,9}"
    r"(\S.{0,200})$",
    re.IGNORECASE | re.MULTILINE,
)
EMPTY_THOUGHT = re.compile(r"<think(?:ing)?>\s{0,99}</think(?:ing)?>", re.IGNORECASE)
TURN = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|^(?:Human|User):", re.MULTILINE)
WORD = re.compile(r"[^\W\d_]{2,}")
MARKERS = re.compile(r"\\boxed|</?think(?:ing)?>|\b(?:the|final|answer|is)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion with its verdicts, and what is known about its problem."""

    text: str
    finish_reason: str = "stop"
    outcome: Outcome | str = "incorrect"
    extracted: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    """Outcomes by other graders."""
    right_answers: frozenset[str] = frozenset()
    """Answers of the problem that are known to be right."""
    statement: str | None = None
    """The text of the problem, where it is on this machine."""


def not_extracted(sample: Sample) -> bool:
    """Return whether a wrong sample has a right answer in its text that is not the one that was extracted.

    An answer of three characters or less counts in a box, in a line that names the answer, and at the end only.
    """
    if sample.outcome != "incorrect":
        return False
    own = _plain(sample.extracted) if sample.extracted is not None else None
    return any(
        _plain(answer) != own and _gives(sample.text, answer) for answer in sample.right_answers if answer.strip()
    )


def _gives(text: str, answer: str) -> bool:
    answer = answer.strip()
    if answer not in text:
        return False
    given = [*BOXED.findall(text), *ANSWER_LINE.findall(text)]
    if any(_plain(one).rstrip(".") == _plain(answer) for one in given):
        return True
    place = text[-END:] if len(answer) <= SHORT else text
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", place) is not None


def _plain(answer: str) -> str:
    return "".join(answer.split()).strip("$")


def graders_disagree(sample: Sample) -> bool:
    """Return whether another grader calls a sample right that this one calls wrong, or the reverse."""
    decided = ("correct", "incorrect")
    return sample.outcome in decided and any(
        other in decided and other != sample.outcome for other in sample.others.values()
    )


def at_token_limit(sample: Sample) -> bool:
    return sample.finish_reason == "length"


def empty_reasoning(sample: Sample) -> bool:
    """Return whether there is no word besides the answer: an empty text, an empty thought, or a bare answer."""
    text = sample.text.strip()
    if not text or EMPTY_THOUGHT.search(text):
        return True
    if sample.extracted is None or not sample.extracted.strip() or _plain(sample.extracted) == _plain(text):
        return False  # without an answer, or where the whole text is the answer, as in countdown
    return sample.extracted in text and not WORD.search(MARKERS.sub(" ", text.replace(sample.extracted, " ")))


def repeated_text(sample: Sample) -> bool:
    """Return whether a text ends in a loop, or has one long line again and again."""
    tail = sample.text.rstrip()[-LOOP:]
    key = tail[-30:]
    before = tail.rfind(key, 0, len(tail) - 1) if len(tail) >= LEAST_LOOP else -1
    if before >= 0:
        period = len(tail) - len(key) - before
        times = max(FEWEST_LOOPS, math.ceil(LEAST_LOOP / period))
        if period * times <= len(tail) and tail.endswith(tail[-period:] * times):
            return True
    if sample.text.count("\n") < FEWEST_LINES - 1:
        return False
    lines = Counter(line for line in map(str.strip, sample.text.splitlines()) if len(line) >= LEAST_LINE)
    return max(lines.values(), default=0) >= FEWEST_LINES


def answer_spray(sample: Sample) -> bool:
    """Return whether a text gives several different final answers, in boxes or in lines that name the answer."""
    boxes = {_plain(found) for found in BOXED.findall(sample.text)}
    lines = {_plain(found) for found in ANSWER_LINE.findall(sample.text)} if not boxes else set()
    return max(len(boxes), len(lines)) >= SPRAY


def prompt_echoed(sample: Sample) -> bool:
    """Return whether a text repeats a part of its prompt, or opens another turn of the conversation."""
    if TURN.search(sample.text):
        return True
    prompt = " ".join(sample.statement.split()) if sample.statement is not None else ""
    if len(prompt) < ECHO or len(sample.text) < ECHO:
        return False
    text, middle = " ".join(sample.text.split()), (len(prompt) - ECHO) // 2
    return any(prompt[start : start + ECHO] in text for start in {0, middle, len(prompt) - ECHO})


FLAGS: Mapping[str, Callable[[Sample], bool]] = {
    "right answer not extracted": not_extracted,
    "graders disagree": graders_disagree,
    "token limit": at_token_limit,
    "empty reasoning": empty_reasoning,
    "repeated text": repeated_text,
    "answer spray": answer_spray,
    "prompt echoed": prompt_echoed,
}
"""In the order of a report."""


def flags_of(sample: Sample) -> list[str]:
    """Return the names of the flags of a sample."""
    return [name for name, has in FLAGS.items() if has(sample)]


# --- runs -------------------------------------------------------------------------------------------------------


class _Text(msgspec.Struct):
    task: str
    problem_id: str
    index: Count
    finish_reason: StoredReason
    text: str


@dataclass(slots=True)
class _Verdicts:
    outcome: str = ""
    extracted: str | None = None
    others: dict[str, str] = field(default_factory=dict)


Key = tuple[str, str, int]
"""Task, problem, sample index."""
Statements = Mapping[str, Mapping[str, str]]
"""Text of each problem by task."""


def right_answers(runs: Sequence[RunReader]) -> dict[tuple[str, str], frozenset[str]]:
    """Return the answers that a grader of any run extracted from a right sample, by task and problem."""
    found: dict[tuple[str, str], set[str]] = {}
    decode = line_decoder(VerdictLine)

    def add(line: bytes, _offset: int) -> None:
        row = decode(line)
        if row.outcome == "correct" and row.extracted is not None and len(row.extracted) <= LONGEST_ANSWER:
            found.setdefault((row.task, row.problem_id), set()).add(row.extracted)

    for run in runs:
        for_each_line(run.lines("verdicts.jsonl"), add)
    return {key: frozenset(answers) for key, answers in found.items()}


def flagged(
    run: RunReader, right: Mapping[tuple[str, str], frozenset[str]], statements: Statements
) -> Iterator[tuple[Key, list[str]]]:
    """Yield each sample of a run that the config asks for, with its flags."""
    verdicts, most = _read_verdicts(run), run_config(run).n
    found: list[tuple[Key, list[str]]] = []
    decode, none = line_decoder(_Text), _Verdicts()

    def add(line: bytes, _offset: int) -> None:
        row = decode(line)
        if most is not None and row.index >= most:
            return
        key = (row.task, row.problem_id, row.index)
        verdict = verdicts.get(key, none)
        statement = statements.get(row.task, {}).get(row.problem_id)
        answers = right.get(key[:2], frozenset())
        judged = (verdict.outcome, verdict.extracted, verdict.others)
        found.append((key, flags_of(Sample(row.text, row.finish_reason, *judged, answers, statement))))

    with no_collections():
        for_each_line(run.lines("completions.jsonl"), add)
    return iter(found)


def _read_verdicts(run: RunReader) -> dict[Key, _Verdicts]:
    own = {task: str(grader_of(run, task)) for task in task_ids(run)}
    found: dict[Key, _Verdicts] = {}
    decode = line_decoder(VerdictLine)

    def add(line: bytes, _offset: int) -> None:
        row = decode(line)
        verdict = found.setdefault((row.task, row.problem_id, row.index), _Verdicts())
        if row.grader == own.get(row.task):
            verdict.outcome, verdict.extracted = row.outcome, row.extracted
        else:
            verdict.others[row.grader] = row.outcome

    with no_collections():
        for_each_line(run.lines("verdicts.jsonl"), add)
    return found
