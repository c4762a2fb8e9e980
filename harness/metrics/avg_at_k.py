"""avg@k: the share of right samples, averaged over samples, then over problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import by_problem, mean_estimate


class AvgAtK:
    """The mean of n_correct / n_graded over problems.

    An ungraded completion is in no mean and is counted as ungraded; a problem without any verdict is left out. When
    nothing at all could be graded there is no estimate.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        used = [problem for problem in problems if problem.n_graded > 0]
        if not used:
            return []
        fewest, most = min(p.n_graded for p in used), max(p.n_graded for p in used)
        notes = [f"{fewest} to {most} graded samples a problem"] if fewest < most else []
        if len(used) < len(problems):
            notes.append(f"{len(problems) - len(used)} problems without a graded sample left out")
        values = [problem.n_correct / problem.n_graded for problem in used]
        return [mean_estimate(f"avg@{most}", used, values, problems, notes)]


METRIC: type[Metric] = AvgAtK
