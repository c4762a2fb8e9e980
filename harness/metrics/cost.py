"""cost: US dollars per thousand samples and per thousand right answers, where the server's cost or prices are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.core.types import Estimate, Graded
from harness.metrics.base.grouping import (
    MeanOverProblems,
    Means,
    ProblemSamples,
    by_problem,
    mean_estimate,
    per_right_answer,
    with_samples,
)


class Cost(MeanOverProblems):
    """The cost of samples and of right answers.

    `USD per 1000 samples` is the mean over problems of the mean over graded samples. `USD per 1000 right answers` is
    the cost of all graded samples over the number of right ones; it has no estimate where nothing is right, or so few
    problems that its interval has no upper end. Failed requests are not counted. There is no estimate where the cost of
    a completion is unknown: for a server that does not report costs set `engine.usd_per_million_prompt_tokens` and
    `engine.usd_per_million_completion_tokens`.
    """

    def means(self, problems: Sequence[ProblemSamples]) -> list[Means]:
        used, notes = with_samples(problems, 1)
        costs = _costs(used)
        if not used or costs is None:
            return []
        values = [sum(some) / len(some) for some in costs]
        dearest = max(max(some) for some in costs)
        return [Means("USD per 1000 samples", used, values, dearest if dearest > 0 else 1.0, notes)]

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        used, _ = with_samples(problems, 1)
        if (costs := _costs(used)) is None:
            return []
        found = [mean_estimate(means, problems) for means in self.means(problems)]
        return [*found, *per_right_answer("USD per 1000 right answers", list(map(sum, costs)), used, problems)]


def _costs(problems: Sequence[ProblemSamples]) -> list[list[float]] | None:
    """Return the costs per thousand of each problem's graded samples; None where one is unknown."""
    recorded = [[item.completion.tokens.cost_usd for item in problem.graded] for problem in problems]
    known = [[1000 * cost for cost in some if cost is not None] for some in recorded]
    return known if list(map(len, known)) == list(map(len, recorded)) else None


METRIC = Cost
