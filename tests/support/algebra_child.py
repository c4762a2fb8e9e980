"""A question for the algebra workers, asked in a child process, which must be able to import this file."""

from __future__ import annotations

from harness.core.types import Completion, Problem, Tokens
from harness.graders.math import MathGrader, algebra
from harness.graders.math.reference import typed_reference

GOLD, ANSWER = r"\int_0^2 x dx", r"\int_0^2 t dt"


def asked_in_child(results):
    problem = Problem("p", "t", (), typed_reference(GOLD))
    completion = Completion("p", 0, 0, rf"\boxed{{{ANSWER}}}", "stop", Tokens(1, 1))
    verdict = MathGrader(MathGrader.Config()).grade(problem, completion)
    results.put(((verdict.outcome, verdict.reason), algebra.POOL.pids()))
