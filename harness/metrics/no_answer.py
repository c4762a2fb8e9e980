"""no answer: the share of completions that end by themselves without an answer that the grader can find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.core.types import Graded
from harness.metrics.base.grouping import MeanOverProblems, Means, ProblemSamples, rate, tells_answers


class NoAnswer(MeanOverProblems):
    """The rate of format failures (incorrect, nothing extracted, not truncated), averaged over problems.

    There is no estimate where the grader does not record the answers: a right or wrong verdict without `extracted`.
    """

    def means(self, problems: Sequence[ProblemSamples]) -> list[Means]:
        return rate("no answer", problems, _is_empty) if tells_answers(problems) else []


def _is_empty(item: Graded[Any]) -> bool:
    verdict = item.verdict
    return (
        verdict.outcome == "incorrect" and verdict.extracted is None and item.completion.finish_reason == "stop"
    ) and verdict.reason != "truncated"


METRIC = NoAnswer
