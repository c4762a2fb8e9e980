"""avg@k: the share of right samples, averaged over samples, then over problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import ProblemSamples, by_problem, mean_estimate


class AvgAtK:
    """The mean of n_correct / n_graded over problems.

    An ungraded completion is in no mean and is counted as ungraded; a problem without any verdict is left out. When
    nothing at all could be graded there is no estimate.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        draw_samples: bool = False
        """Let the bootstrap draw the samples of a problem too: safer with few problems, and wider."""

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
        estimate = mean_estimate(f"avg@{most}", used, values, problems, notes)
        return [_with_samples_drawn(estimate, used, notes) if self.config.draw_samples else estimate]


def _with_samples_drawn(estimate: Estimate, used: Sequence[ProblemSamples], notes: Sequence[str]) -> Estimate:
    from harness.core.stats import rate_interval  # numpy

    interval = rate_interval([p.n_correct for p in used], [p.n_graded for p in used])
    return replace(estimate, low=interval.low, high=interval.high, method="; ".join([interval.method, *notes]))


METRIC: type[Metric] = AvgAtK
