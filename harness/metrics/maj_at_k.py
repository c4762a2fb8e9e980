"""maj@k: the chance that the most frequent answer of k samples is right, ties shared, over all subsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.core.protocols import Metric
from harness.metrics.base.grouping import Family, Means, ProblemSamples, tells_answers
from harness.metrics.base.votes import Ballot, ballot, is_prose, majority


class MajAtK(Family):
    """The mean over problems of the mean over all subsets of k graded samples of the vote's credit.

    A right answer that is as frequent as t - 1 others, none being more frequent, earns 1 / t. A sample without an
    answer does not vote; a subset without a vote earns 0. Right answers are one answer unless the grader names
    their solution; wrong ones are told apart by their text without spaces, for nothing says which of them are equal.
    No estimate where the grader does not say what it read, or where answers are texts of several lines (programs).
    For k = 1, 4, 16, 64 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    name = "maj"
    base = 4

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        return super().means(problems) if tells_answers(problems) and not is_prose(problems) else []

    def count(self, problem: ProblemSamples) -> Ballot:
        return ballot(problem)

    def values(self, counts: Sequence[Ballot], k: int) -> Sequence[float]:
        return [majority(cast, k) for cast in counts]


METRIC: type[Metric] = MajAtK
