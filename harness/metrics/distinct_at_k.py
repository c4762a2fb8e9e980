"""distinct@k: how many different right solutions k samples hold, where the grader says what one solution is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from harness.core.errors import PluginError
from harness.core.protocols import Metric
from harness.core.types import Graded
from harness.metrics.base.grouping import Family, Means, ProblemSamples

Counts = tuple[int, list[int]]
"""Graded samples, and those of each right solution."""


class DistinctAtK(Family):
    """The mean over problems of the sum over solutions s of 1 - C(n-c_s, k) / C(n, k): c_s of n samples are s.

    That is the expected number of distinct right solutions among k of the n samples (rarefaction, Hurlbert 1971),
    so different n compare. Two right samples are one solution when their `verdict.details["solution"]` is equal.
    Where right verdicts carry no such key there is no estimate; where nothing is right it is 0 under any notion.
    For k = 1, 4, 16, 64 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    name = "distinct"
    base = 4

    def upper(self, _k: int) -> float:
        return float(_k)

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        return super().means(problems) if _tells_solutions(problems) else []

    def count(self, problem: ProblemSamples) -> Counts:
        solutions = Counter(item.verdict.details["solution"] for item in _right(problem))
        return problem.n_graded, list(solutions.values())

    def values(self, counts: Sequence[Counts], k: int) -> Sequence[float]:
        from harness.stats.intervals import pass_at_k  # numpy

        n_samples = [n for n, solutions in counts for _ in solutions]
        chances = iter(pass_at_k(n_samples, [c for _, solutions in counts for c in solutions], k).tolist())
        # Rounding must not lift a sum over k certain solutions above k.
        return [min(float(k), math.fsum(islice(chances, len(solutions)))) for _, solutions in counts]


def _right(problem: ProblemSamples) -> list[Graded[Any]]:
    return [item for item in problem.graded if item.verdict.outcome == "correct"]


def _tells_solutions(problems: Sequence[ProblemSamples]) -> bool:
    """Whether right verdicts carry their solution. All do, or none does."""
    right = [item for problem in problems for item in _right(problem)]
    silent = [item for item in right if "solution" not in item.verdict.details]
    if silent and len(silent) < len(right):
        raise PluginError(
            f"{len(silent)} of {len(right)} right verdicts lack details['solution'], that of "
            f"{silent[0].problem.id}[{silent[0].completion.index}] among them: a grader gives it always or never"
        )
    return not silent


METRIC: type[Metric] = DistinctAtK
