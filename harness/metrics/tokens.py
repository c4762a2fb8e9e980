"""tokens: completion tokens of a sample, and all of them for each right one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import ProblemSamples, by_problem, mean_estimate


class TokenCounts:
    """`tokens`: the mean over problems of the mean over graded samples. `tokens per right answer`: the tokens of all
    graded samples over the number of right ones.

    The second has no estimate where nothing is right, or so few problems that its interval has no upper end.
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
        notes = [f"{len(problems) - len(used)} problems without a graded sample left out"] if used != problems else []
        return [_per_sample(used, problems, notes), *_per_right_answer(used, problems, notes)]


def _n_tokens(problem: ProblemSamples) -> int:
    return sum(item.completion.tokens.n_completion for item in problem.graded)


def _per_sample(used: Sequence[ProblemSamples], problems: Sequence[ProblemSamples], notes: Sequence[str]) -> Estimate:
    longest = max(item.completion.tokens.n_completion for problem in used for item in problem.graded)
    values = [_n_tokens(problem) / problem.n_graded for problem in used]
    # No sample is longer than the budget; the longest is what is known of it.
    return mean_estimate("tokens", used, values, problems, notes, upper=float(max(1, longest)))


def _per_right_answer(
    used: Sequence[ProblemSamples], problems: Sequence[ProblemSamples], notes: Sequence[str]
) -> list[Estimate]:
    n_tokens, n_right = [_n_tokens(p) for p in used], [p.n_correct for p in used]
    if sum(n_right) == 0 or len(used) == 1:
        return []
    from harness.core.stats import DRAWS, INTERVAL_SEED, ratio_interval  # numpy

    low, high = ratio_interval(n_tokens, n_right)
    if math.isinf(high):
        return []
    method = f"95% bootstrap of a ratio over {len(used)} problems, {DRAWS} draws, seed {INTERVAL_SEED}"
    counts = (len(used), sum(p.n_graded for p in used), sum(p.n_ungraded for p in problems))
    value = sum(n_tokens) / sum(n_right)
    return [Estimate("tokens per right answer", value, low, high, *counts, "; ".join([method, *notes]))]


METRIC: type[Metric] = TokenCounts
