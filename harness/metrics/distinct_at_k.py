"""distinct@k: how many different right solutions k samples hold, where the grader says what one solution is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from harness.core.errors import PluginError
from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import ProblemSamples, by_problem, check_sizes, family_estimate, sizes


class DistinctAtK:
    """The mean over problems of the sum over solutions s of 1 - C(n-c_s, k) / C(n, k): c_s of n samples are s.

    That is the expected number of distinct right solutions among k of the n samples (rarefaction, Hurlbert 1971),
    so different n compare. Two right samples are one solution when their `verdict.details["solution"]` is equal.
    Where right verdicts carry no such key there is no estimate; where nothing is right it is 0 under any notion.
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
        if not _tells_solutions(problems):
            return []
        return [_distinct_at(k, problems) for k in sizes(self.config.ks, 4, problems)]


def _right(problem: ProblemSamples) -> list[Graded[Any]]:
    return [item for item in problem.graded if item.verdict.outcome == "correct"]


def _solution_counts(problem: ProblemSamples) -> list[int]:
    return list(Counter(item.verdict.details["solution"] for item in _right(problem)).values())


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


def _distinct_at(k: int, problems: Sequence[ProblemSamples]) -> Estimate:
    from harness.core.stats import pass_at_k  # numpy

    def expected(used: Sequence[ProblemSamples]) -> Sequence[float]:
        counts = [_solution_counts(problem) for problem in used]
        n_samples = [problem.n_graded for problem, group in zip(used, counts, strict=True) for _ in group]
        chances = iter(pass_at_k(n_samples, list(chain.from_iterable(counts)), k).tolist())
        # Rounding must not lift a sum over k certain solutions above k.
        return [min(float(k), math.fsum(islice(chances, len(group)))) for group in counts]

    return family_estimate("distinct", problems, k, expected, upper=float(k))


METRIC: type[Metric] = DistinctAtK
