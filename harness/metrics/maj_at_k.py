"""maj@k: the probability that the most frequent answer of k samples is right, over all subsets, ties shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.metrics.base.grouping import Family, Means, ProblemSamples, tells_answers
from harness.metrics.base.votes import Ballot, ballot, is_prose, majority


class MajAtK(Family):
    """The mean over problems of the mean credit of the vote over all subsets of k graded samples.

    A right answer earns 1 / t when it is as frequent as t - 1 others and none is more frequent. A sample without an
    answer does not vote; a subset without votes earns 0. Right answers count as one unless the grader identifies their
    solution; wrong ones differ when their texts without spaces differ. There is no estimate where the grader does not
    record the answers, or where answers are texts of several lines (programs).
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


METRIC = MajAtK
