"""Countdown chains such as `4*9=36;36+2=38`: every step legal, the target hit."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.countdown.rules import BrokenRuleError, CountdownReference, parse, solve, written


class CountdownGrader:
    """Reward 1 for a solution, else 0 with the first broken rule as the reason; nothing in between.

    `details["solution"]` is the canonical text of a correct answer: equal texts are one solution.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, problem: Problem[CountdownReference], completion: Completion) -> Verdict:
        """Total and linear in the text. An answer that the token budget cut off is never complete."""
        if completion.finish_reason == "length":
            return Verdict("incorrect", 0.0, reason="truncated")
        chain: str | None = None
        try:
            steps = parse(completion.text, problem.reference.n_steps)
            chain = written(steps)
            solution = solve(steps, problem.reference)
        except BrokenRuleError as broken:
            return Verdict("incorrect", 0.0, extracted=chain, reason=str(broken))
        return Verdict("correct", 1.0, extracted=chain, details={"solution": solution.text})


GRADER: type[Grader[CountdownReference]] = CountdownGrader
