"""tokens: completion tokens per sample and per right answer."""

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


class TokenCounts(MeanOverProblems):
    """Completion tokens.

    `tokens` is the mean over problems of the mean over graded samples. `tokens per right answer` is the number of
    tokens of all graded samples over the number of right ones; it has no estimate where nothing is right, or so few
    problems that its interval has no upper end. Imported completions whose tokens were not counted have neither.
    """

    def means(self, problems: Sequence[ProblemSamples]) -> list[Means]:
        used, notes = with_samples(problems, 1)
        if not any(map(_n_tokens, used)):
            return []
        values = [_n_tokens(problem) / problem.n_graded for problem in used]
        # The upper bound is the token budget, which a metric does not know; the longest sample stands for it.
        longest = max(item.completion.tokens.n_completion for problem in used for item in problem.graded)
        return [Means("tokens", used, values, float(max(1, longest)), notes)]

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        found = [mean_estimate(means, problems) for means in self.means(problems)]
        used, _ = with_samples(problems, 1)
        if not found:
            return []
        return [*found, *per_right_answer("tokens per right answer", list(map(_n_tokens, used)), used, problems)]


def _n_tokens(problem: ProblemSamples) -> int:
    return sum(item.completion.tokens.n_completion for item in problem.graded)


METRIC = TokenCounts
