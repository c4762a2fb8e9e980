"""avg@k: the share of right samples, averaged within problems, then over problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.types import Estimate, Graded
from harness.metrics.base.grouping import (
    MeanOverProblems,
    Means,
    ProblemSamples,
    by_problem,
    mean_estimate,
    with_samples,
)


class AvgAtK(MeanOverProblems):
    """The mean over problems of n_correct / n_graded.

    Ungraded completions are in no mean and are counted separately. A problem without a verdict is left out. When
    nothing could be graded there is no estimate.
    """

    config: Config

    @dataclass(frozen=True, slots=True)
    class Config:
        draw_samples: bool = False
        """Let the bootstrap also draw the samples of a problem: a wider interval, safer with few problems."""

    def means(self, problems: Sequence[ProblemSamples]) -> list[Means]:
        used, left_out = with_samples(problems, 1)
        if not used:
            return []
        fewest, most = min(p.n_graded for p in used), max(p.n_graded for p in used)
        notes = (f"{fewest} to {most} graded samples per problem",) if fewest < most else ()
        rates = [problem.n_correct / problem.n_graded for problem in used]
        return [Means(f"avg@{most}", used, rates, notes=(*notes, *left_out))]

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        if not self.config.draw_samples:
            return super().estimate(graded)
        problems = by_problem(graded)
        return [_with_samples_drawn(means, problems) for means in self.means(problems)]


def _with_samples_drawn(means: Means, problems: Sequence[ProblemSamples]) -> Estimate:
    from harness.stats.intervals import rate_interval  # numpy

    interval = rate_interval([p.n_correct for p in means.used], [p.n_graded for p in means.used])
    method = "; ".join([interval.method, *means.notes])
    return replace(mean_estimate(means, problems), low=interval.low, high=interval.high, method=method)


METRIC = AvgAtK
