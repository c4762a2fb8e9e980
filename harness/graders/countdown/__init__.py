"""Countdown: a chain such as `4*9=36;36+2=38` is correct if every step is legal and the target is hit."""

from __future__ import annotations

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.countdown.rules import BrokenRuleError, CountdownReference, format_chain, parse, solve


class CountdownGrader(Grader[CountdownReference]):
    """Rewards a solution with 1, anything else with 0 and the first broken rule as the reason.

    `details["solution"]` is the canonical text of a correct answer: equal texts are the same solution.
    """

    names_solutions = True

    def grade(self, problem: Problem[CountdownReference], completion: Completion) -> Verdict:
        """Grade in time linear in the text. An answer that the token budget cut off is never complete."""
        if completion.finish_reason == "length":
            return Verdict("incorrect", 0.0, reason="truncated")
        chain: str | None = None
        try:
            steps = parse(completion.text, problem.reference.allowed_steps)
            chain = format_chain(steps)
            solution = solve(steps, problem.reference)
        except BrokenRuleError as broken:
            return Verdict("incorrect", 0.0, extracted=chain, reason=str(broken))
        return Verdict("correct", 1.0, extracted=chain, details={"solution": solution.text})


GRADER = CountdownGrader
