"""Maths answers: the last box or answer line, compared exactly, then numerically, then by algebra in worker processes.

The answer is searched after the reasoning: after the last `</think>`, in the last `\boxed{}`, `<answer>` tag or line
such as `Answer: 42`, `#### 42` or `答案：42`, whichever comes later. A label may have the answer on the next line, and
a reply that is nothing but an answer is one. Only one guess counts. Boxes separated by nothing but a comma, `and` or
`or` are one answer with several parts: correct for a reference with several parts, `several answers` for any other. A
box followed by words and another box is a draft, and the later box counts.

`details["rung"]` is the stage that decided: `exact` (numbers and words), `numeric` (computed), `symbolic`
(math-verify). Reasons of `incorrect`: `wrong`, `no answer`, `truncated` (cut off, or the reasoning never ends),
`several answers`. Reasons of `ungraded`: `reference unreadable`, `limit` (an answer too large to read or compute, or
algebra that took too long), `worker died`. A failure to grade is never `incorrect`.

Notation without meaning is ignored: spacing, LaTeX sizes, degree, percent and currency signs, missing units,
thousands separators, mixed numbers, e-notation, a label such as `x =`, inequalities in place of intervals, the order
of several answers. A percent sign is a unit: 62.5% equals 62.5 and not 0.625 (see `percent`). Tuples are ordered, the
ends of intervals count, all of several answers must be present, and two different units, currencies or number bases
differ. A number without a base is in base ten.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from harness.core.errors import DataError
from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.algebra import POOL, WorkerDiedError, WorkerTooSlowError
from harness.graders.math.arithmetic import LimitError
from harness.graders.math.comparison import Comparison
from harness.graders.math.extraction import answer_region, find
from harness.graders.math.reference import (
    MathReference,
    UnreadableAnswerError,
    read,
    typed_reference,
    without_percent,
)

_TOWER = re.compile(r"\^ ?\{[^{}]*\^ ?\{[^{}]*\^")
_LARGE = re.compile(r"(?:\^ ?\{? ?-?|\\binom ?\{)[0-9]{4,}|[0-9]{4,}\)?!|[0-9]{60,}")
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9])")
_COMMAND, _LETTER = re.compile(r"\\[A-Za-z]+"), re.compile(r"[A-Za-z]")
MOST_SYMBOLIC_CHARACTERS = 1_000


class MathGrader(Grader[MathReference]):
    @dataclass(frozen=True, slots=True)
    class Config:
        symbolic_timeout_s: float = 3.0
        """Time limit of the algebra worker per question."""
        opening_tag: str = "<think>"
        closing_tag: str = "</think>"
        starts_in_reasoning: bool = False
        """The prompt opens the reasoning, so a completion without the closing tag is truncated."""
        percent: Literal["unit", "hundredth", "either"] = "unit"
        """How a percent sign is read: 62.5% as 62.5, as 0.625, or as both."""
        decimal_digits: int = 6
        """Number of digits that a decimal must agree in with a value that has no finite decimal, such as 1/3."""
        decimal_commas: bool = False
        """Read `3,14` in an answer as 3.14: then thousands have no comma, and a list has spaces or semicolons."""
        base_may_be_missing: bool = False
        """Accept 2516 for 2516_8, where the question names the base."""

        def __post_init__(self) -> None:
            if not 1 <= self.decimal_digits <= 12:
                raise ValueError("decimal_digits must be from 1 to 12")

    n_at_once = 2
    """Number of algebra workers."""

    config: Config

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
        is_cut = completion.finish_reason == "length"
        found = find(region, is_cut=is_cut)
        if not found.answers:
            return Verdict("incorrect", 0.0, reason="truncated" if is_cut else found.reason)
        return self._compared(gold, found.answers)

    def are_equal(self, first: str, second: str) -> bool:
        """Return whether the second answer is right where the first is the reference; unreadable ones are compared as
        text."""
        try:
            return self._compared(typed_reference(first), (second,)).outcome == "correct"
        except DataError:
            return super().are_equal(first, second)

    def grade_many(self, pairs: Iterable[tuple[Problem[MathReference], Completion]]) -> list[Verdict]:
        """Return the verdicts in order. Threads share the algebra workers, so one slow answer delays few others."""
        with ThreadPoolExecutor(max_workers=4) as threads:
            return list(threads.map(lambda pair: self.grade(*pair), pairs))

    def _reference(self, reference: Any) -> MathReference:
        if isinstance(reference, MathReference):
            return reference
        if isinstance(reference, str):  # the reference of a task written for another grader
            return typed_reference(reference)
        raise DataError(f"a {type(reference).__name__} is not a maths answer")

    def _compared(self, gold: MathReference, answers: tuple[str, ...]) -> Verdict:
        extracted = answers[0] if len(answers) == 1 else ", ".join(answers)
        if len(answers) > 1 and gold.kind not in ("set", "tuple", "interval"):
            return Verdict("incorrect", 0.0, extracted[:MOST_SYMBOLIC_CHARACTERS], "several answers", {"rung": "exact"})
        written_out, bases = _tolerance(self.config.decimal_digits), self.config.base_may_be_missing
        comparison = Comparison(self._algebra, written_out=written_out, base_may_be_missing=bases)
        try:
            answer = read(
                _DECIMAL_COMMA.sub(".", extracted) if self.config.decimal_commas else extracted,
                is_multiple=len(answers) > 1 or (gold.kind == "set" and len(gold.items) > 1),
                letters_are_units=not _has_letters(gold.body),
            )
            is_same = self._is_same(comparison, gold, answer)
        except (LimitError, UnreadableAnswerError, WorkerTooSlowError, RecursionError) as error:
            return _ungraded("limit", extracted, comparison, error)
        except WorkerDiedError as error:
            return _ungraded("worker died", extracted, comparison, error)
        details = {"rung": comparison.rung}
        if is_same:
            return Verdict("correct", 1.0, extracted, details=details)
        is_spray = len(answer.items) > 1 and answer.kind == "set" and gold.kind not in ("set", "tuple", "interval")
        return Verdict("incorrect", 0.0, extracted, "several answers" if is_spray else "wrong", details)

    def _is_same(self, comparison: Comparison, gold: MathReference, answer: MathReference) -> bool:
        if "%" not in (gold.unit, answer.unit):
            return comparison.same(gold, answer)
        if self.config.percent != "hundredth" and comparison.same(gold, answer):
            return True
        return self.config.percent != "unit" and comparison.same(without_percent(gold), without_percent(answer))

    def _algebra(self, gold: str, answer: str) -> bool:
        for text in (gold, answer):
            if len(text) > MOST_SYMBOLIC_CHARACTERS or _LARGE.search(text) or _TOWER.search(text):
                raise LimitError("too large for algebra")
        return POOL.equal(gold, answer, self.config.symbolic_timeout_s)


@functools.cache
def _tolerance(decimal_digits: int) -> Fraction:
    return Fraction(1, 10**decimal_digits)


@functools.lru_cache(maxsize=1024)
def _has_letters(body: str) -> bool:
    """Return whether a gold answer has a letter outside of commands."""
    return _LETTER.search(_COMMAND.sub("", body)) is not None


def _ungraded(reason: str, extracted: str, comparison: Comparison, error: Exception) -> Verdict:
    details = {"rung": comparison.rung, "error": str(error)}
    return Verdict("ungraded", None, extracted[:200], reason, details)


GRADER = MathGrader
