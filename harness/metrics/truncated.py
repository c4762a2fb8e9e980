"""truncated: the share of completions that reached the token limit, averaged over problems."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics.base.grouping import MeanOverProblems, Means, ProblemSamples, rate


class Truncated(MeanOverProblems):
    """The share of graded samples whose `finish_reason` is `length`. Lower is better."""

    def means(self, problems: Sequence[ProblemSamples]) -> list[Means]:
        return rate("truncated", problems, lambda item: item.completion.finish_reason == "length")


METRIC = Truncated
