"""Legacy: GSM8K as graded by lm-eval's task of that name (lm_eval/tasks/gsm8k/gsm8k.yaml, version 3).

A pattern extracts the answer. It is compared with the reference as text, after commas, dollar signs, everything up to
`#### ` and a full stop at the end are removed. `variant` selects the pattern:

* `strict-match`: only the first number after `#### `, which ends the examples in the prompt.
* `flexible-extract`: the last number of the reply, wherever it is.

Known faults: 18.0 and 18 differ; full stops or commas behind a number belong to it, and only a single full stop is
removed again; `strict-match` counts a boxed answer as wrong, and `flexible-extract` counts a number that merely ends
the reply as the answer. For your own results use `math`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.reference import MathReference, gold_text

Variant = Literal["strict-match", "flexible-extract"]

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


class LegacyGsm8kGrader(Grader[MathReference | str]):
    @dataclass(frozen=True, slots=True)
    class Config:
        variant: Variant = "strict-match"

    config: Config

    def grade(self, problem: Problem[MathReference | str], completion: Completion) -> Verdict:
        gold = gold_text(problem.reference)
        if gold is None:
            return Verdict("ungraded", None, reason="reference unreadable")
        answer = self._answer(completion.text)
        if answer is None:
            return Verdict("incorrect", 0.0, reason="no answer")
        if _strip_ignored(answer) == _strip_ignored(gold):
            return Verdict("correct", 1.0, answer)
        return Verdict("incorrect", 0.0, answer, "wrong")

    def _answer(self, text: str) -> str | None:
        if self.config.variant == "strict-match":
            first = _STRICT.search(text)
            return first.group(1) if first is not None else None
        numbers = [found.group() for found in _NUMBER.finditer(text)]
        return numbers[-1] if numbers else None


def _strip_ignored(answer: str) -> str:
    for pattern in _IGNORED:
        answer = pattern.sub("", answer)
    return answer.lower()


GRADER = LegacyGsm8kGrader
