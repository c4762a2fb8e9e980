"""Legacy: math-verify alone, called as by lm-eval and the FlowRL evaluation.

`variant = "flowrl"` reproduces `recipe/r1/tasks/math.py` of FlowRL (and of verl before it): the gold in a box is parsed
as LaTeX, the completion as expression and LaTeX. `variant = "lm-eval"` reproduces the `math_verify` metric of its
minerva_math tasks: both sides parsed with the defaults (there the gold is parsed from the whole reference solution,
here from its answer in a box). For your own results use `math`.

Known faults: golds in e-notation (4.5e33) reject the right answer; two boxes a short gap apart become a set; 10% equals
10 and 0.1; the base of a number is dropped; `1,2` is accepted for `(1,2)`, and in some versions a subset for "find
all"; an answer inside unfinished reasoning counts; towers of powers take the whole time limit.

One deliberate difference: a comparison that fails or exceeds the time limit is ungraded here (`limit`, `worker died`),
where the sources score 0. So the report shows how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.algebra import POOL, WorkerDiedError, WorkerTooSlowError
from harness.graders.math.reference import MathReference, gold_text

MOST_CHARACTERS = 1_000_000


class LegacyMathVerifyGrader(Grader[MathReference | str]):
    @dataclass(frozen=True, slots=True)
    class Config:
        variant: Literal["flowrl", "lm-eval"] = "flowrl"
        timeout_s: float = 15.0
        """The sources allow 5 s for each side and for the comparison."""

    config: Config

    def grade(self, problem: Problem[MathReference | str], completion: Completion) -> Verdict:
        gold = gold_text(problem.reference)
        if gold is None:
            return Verdict("ungraded", None, reason="reference unreadable")
        if len(completion.text) > MOST_CHARACTERS:
            return Verdict("ungraded", None, reason="limit")
        try:
            is_same = POOL.equal(f"\\boxed{{{gold}}}", completion.text, self.config.timeout_s, self.config.variant)
        except WorkerTooSlowError as error:
            return Verdict("ungraded", None, reason="limit", details={"error": str(error)})
        except WorkerDiedError as error:
            return Verdict("ungraded", None, reason="worker died", details={"error": str(error)})
        return Verdict("correct", 1.0) if is_same else Verdict("incorrect", 0.0, reason="wrong")


GRADER = LegacyMathVerifyGrader
