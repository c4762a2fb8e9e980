"""maj@k: the chance that the most frequent answer of k samples is right, ties shared, over all subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import ProblemSamples, by_problem, check_sizes, family_estimate, sizes, tells_answers
from harness.metrics._votes import Ballot, ballot, is_prose, majority


class MajAtK:
    """The mean over problems of the mean over all subsets of k graded samples of the vote's credit.

    A right answer that is as frequent as t - 1 others, none being more frequent, earns 1 / t. A sample without an
    answer does not vote; a subset without a vote earns 0. Right answers are one answer unless the grader names
    their solution; wrong ones are told apart by their text without spaces, for nothing says which of them are equal.
    No estimate where the grader does not say what it read, or where answers are texts of several lines (programs).
    For k = 1, 4, 16, 64 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        ks: tuple[int, ...] = ()
        """These k instead; a problem with fewer graded samples is left out of that k, and counted."""

        def __post_init__(self) -> None:
            check_sizes(self.ks)

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        if not tells_answers(problems) or is_prose(problems):
            return []
        ballots = {problem.problem_id: ballot(problem) for problem in problems}
        return [_maj_at(k, problems, ballots) for k in sizes(self.config.ks, 4, problems)]


def _maj_at(k: int, problems: Sequence[ProblemSamples], ballots: dict[str, Ballot]) -> Estimate:
    return family_estimate(
        "maj", problems, k, lambda used: [majority(ballots[problem.problem_id], k) for problem in used]
    )


METRIC: type[Metric] = MajAtK
