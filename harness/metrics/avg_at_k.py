"""avg@k: the share of right samples, averaged over samples, then over problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import ProblemSamples, by_problem, mean_estimate


class AvgAtK:
    """The mean of n_correct / n_graded over problems.

    An ungraded completion is in no mean and is counted as ungraded; a problem without any verdict is left out. When
    nothing at all could be graded the value is nan, over 0 problems, so that the count is still told.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        used = [problem for problem in problems if problem.n_graded > 0]
        if not problems:
            return []
        if not used:
            return [_nothing_graded(problems)]
        fewest, most = min(p.n_graded for p in used), max(p.n_graded for p in used)
        notes = [f"{fewest} to {most} graded samples a problem"] if fewest < most else []
        if len(used) < len(problems):
            notes.append(f"{len(problems) - len(used)} problems without a graded sample left out")
        values = [problem.n_correct / problem.n_graded for problem in used]
        return [mean_estimate(f"avg@{most}", used, values, problems, notes)]


def _nothing_graded(problems: Sequence[ProblemSamples]) -> Estimate:
    n_drawn = max(problem.n_ungraded for problem in problems)
    n_ungraded = sum(problem.n_ungraded for problem in problems)
    return Estimate(f"avg@{n_drawn}", math.nan, 0.0, 1.0, 0, 0, n_ungraded, "no completion could be graded")


METRIC: type[Metric] = AvgAtK
