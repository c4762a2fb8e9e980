"""Equality with the reference text, apart from white space at both ends. Nothing is interpreted."""

from __future__ import annotations

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.reference import MathReference, gold_text


class ExactGrader(Grader[MathReference | str]):
    def grade(self, problem: Problem[MathReference | str], completion: Completion) -> Verdict:
        gold = gold_text(problem.reference)
        if gold is None:
            return Verdict("ungraded", None, reason="reference unreadable")
        reply = completion.text.strip()
        if completion.finish_reason == "length":
            return Verdict("incorrect", 0.0, reply, "truncated")
        if reply == gold.strip():
            return Verdict("correct", 1.0, reply)
        return Verdict("incorrect", 0.0, reply, "differs from the reference")


GRADER = ExactGrader
