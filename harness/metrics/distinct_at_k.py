"""distinct@k: the number of different right solutions among k samples, where the grader identifies solutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from harness.core.errors import PluginError
from harness.core.protocols import Grader
from harness.core.types import Graded
from harness.metrics.base.grouping import Family, Means, ProblemSamples

Counts = tuple[int, list[int]]
"""Graded samples, and those of each right solution."""


class DistinctAtK(Family):
    """The mean over problems of the sum over solutions s of 1 - C(n-c_s, k) / C(n, k): c_s of n samples are s.

    That is the expected number of distinct right solutions among k of the n samples (rarefaction, Hurlbert 1971),
    so different n compare. Two right samples are one solution when their `verdict.details["solution"]` is equal.
    There is no estimate where right verdicts have no such key. Where nothing is right it is 0 if the grader identifies
    solutions, and there is no estimate otherwise.
    For k = 1, 4, 16, 64 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    name = "distinct"
    base = 4

    def upper(self, _k: int) -> float:
        return float(_k)

    def applies_to(self, grader: Grader[Any], graded: Sequence[Graded[Any]]) -> bool:
        return grader.names_solutions or any("solution" in item.verdict.details for item in graded)

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        return super().means(problems) if _has_solutions(problems) else []

    def count(self, problem: ProblemSamples) -> Counts:
        solutions = Counter(item.verdict.details["solution"] for item in _right(problem))
        return problem.n_graded, list(solutions.values())

    def values(self, counts: Sequence[Counts], k: int) -> Sequence[float]:
        from harness.stats.frontier import distinct_among  # numpy

        return distinct_among([n for n, _ in counts], [solutions for _, solutions in counts], k)


def _right(problem: ProblemSamples) -> list[Graded[Any]]:
    return [item for item in problem.graded if item.verdict.outcome == "correct"]


def _has_solutions(problems: Sequence[ProblemSamples]) -> bool:
    """Whether right verdicts identify their solution. Either all must, or none."""
    right = [item for problem in problems for item in _right(problem)]
    missing = [item for item in right if "solution" not in item.verdict.details]
    if missing and len(missing) < len(right):
        raise PluginError(
            f"{len(missing)} of {len(right)} right verdicts lack details['solution'], among them that of "
            f"{missing[0].problem.id}[{missing[0].completion.index}]: a grader must set it always or never"
        )
    return not missing


METRIC = DistinctAtK
