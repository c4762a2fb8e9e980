"""Maths answers: the last box or answer line, compared exactly, then by value, then by algebra in killable workers.

The answer is looked for after the reasoning: behind the last `</think>`, in the last `\\boxed{}` or the last line
such as `Answer: 42`, whichever comes later. One guess counts. Boxes listed one after the other with only a comma,
`and` or `or` between them are one answer with several parts: right for a reference of several parts, and
`several answers` for any other. A box with words before the next box is a draft, and the later one counts.

`details["rung"]` says how it was decided: `exact` (numbers and words), `numeric` (computed), `symbolic` (math-verify).
Reasons of `incorrect`: `wrong`, `no answer`, `truncated` (cut off, or the reasoning never ends), `several answers`.
Reasons of `ungraded`: `reference unreadable`, `limit` (an answer too large to be read or computed, or algebra that
took too long), `worker died`. What failed to be graded is never wrong.

Innocent notation is read away: spacing, LaTeX sizes, degree, percent and currency signs, units left out, thousands,
mixed numbers, e-notation, a label such as `x =`, inequalities for intervals, the order of several answers. A percent
sign is a unit: 62.5% is 62.5 and not 0.625. Tuples are ordered, interval ends count, every answer of several must be
there, and two different units, or number bases, differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from harness.core.errors import DataError
from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.algebra import POOL, WorkerDiedError, WorkerTooSlowError
from harness.graders.math.arithmetic import LimitError
from harness.graders.math.comparison import Comparison
from harness.graders.math.extraction import answer_region, find
from harness.graders.math.reference import MathReference, UnreadableAnswerError, read, typed_reference

_TOWER = re.compile(r"\^ ?\{[^{}]*\^ ?\{[^{}]*\^")
_LARGE = re.compile(r"(?:\^ ?\{? ?-?|\\binom ?\{)[0-9]{4,}|[0-9]{4,}\)?!|[0-9]{60,}")
_COMMAND, _LETTER = re.compile(r"\\[A-Za-z]+"), re.compile(r"[A-Za-z]")
MOST_SYMBOLIC_CHARACTERS = 1_000


class MathGrader:
    @dataclass(frozen=True, slots=True)
    class Config:
        symbolic_timeout_s: float = 3.0
        """Of one question to the algebra worker."""
        opening_tag: str = "<think>"
        closing_tag: str = "</think>"
        starts_in_reasoning: bool = False
        """The prompt opens the reasoning, so that a completion without the closing tag is truncated."""

    n_at_once = 2
    """As many as there are algebra workers."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, problem: Problem[MathReference], completion: Completion) -> Verdict:
        try:
            gold = self._reference(problem.reference)
        except DataError as error:
            return Verdict("ungraded", None, reason="reference unreadable", details={"error": str(error)})
        config = self.config
        region = answer_region(
            completion.text, config.opening_tag, config.closing_tag, starts_inside=config.starts_in_reasoning
        )
        if region is None:
            return Verdict("incorrect", 0.0, reason="truncated")
        found = find(region)
        if not found.answers:
            is_cut = completion.finish_reason == "length"
            return Verdict("incorrect", 0.0, reason="truncated" if is_cut else found.reason)
        return self._compared(gold, found.answers)

    def grade_many(self, pairs: Iterable[tuple[Problem[MathReference], Completion]]) -> list[Verdict]:
        """The verdicts in order. Threads share the algebra workers, so that one slow answer holds up few others."""
        with ThreadPoolExecutor(max_workers=4) as threads:
            return list(threads.map(lambda pair: self.grade(*pair), pairs))

    def _reference(self, reference: Any) -> MathReference:
        if isinstance(reference, MathReference):
            return reference
        if isinstance(reference, str):  # of a task that was written for another grader
            return typed_reference(reference)
        raise DataError(f"a {type(reference).__name__} is no maths answer")

    def _compared(self, gold: MathReference, answers: tuple[str, ...]) -> Verdict:
        extracted = answers[0] if len(answers) == 1 else ", ".join(answers)
        if len(answers) > 1 and gold.kind not in ("set", "tuple", "interval"):
            return Verdict("incorrect", 0.0, extracted[:MOST_SYMBOLIC_CHARACTERS], "several answers", {"rung": "exact"})
        comparison = Comparison(self._algebra)
        try:
            answer = read(
                extracted,
                is_multiple=len(answers) > 1 or (gold.kind == "set" and len(gold.items) > 1),
                letters_are_units=_LETTER.search(_COMMAND.sub("", gold.body)) is None,
            )
            is_same = comparison.same(gold, answer)
        except (LimitError, UnreadableAnswerError, WorkerTooSlowError, RecursionError) as error:
            return _ungraded("limit", extracted, comparison, error)
        except WorkerDiedError as error:
            return _ungraded("worker died", extracted, comparison, error)
        details = {"rung": comparison.rung}
        if is_same:
            return Verdict("correct", 1.0, extracted, details=details)
        is_spray = len(answer.items) > 1 and answer.kind == "set" and gold.kind not in ("set", "tuple", "interval")
        return Verdict("incorrect", 0.0, extracted, "several answers" if is_spray else "wrong", details)

    def _algebra(self, gold: str, answer: str) -> bool:
        for text in (gold, answer):
            if len(text) > MOST_SYMBOLIC_CHARACTERS or _LARGE.search(text) or _TOWER.search(text):
                raise LimitError("too large for algebra")
        return POOL.equal(gold, answer, self.config.symbolic_timeout_s)


def _ungraded(reason: str, extracted: str, comparison: Comparison, error: Exception) -> Verdict:
    details = {"rung": comparison.rung, "error": str(error)}
    return Verdict("ungraded", None, extracted[:200], reason, details)


GRADER: type[Grader[MathReference]] = MathGrader
