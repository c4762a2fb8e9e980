"""Bayes@N: the posterior mean of the rate of right samples, averaged over problems (Hariri et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics.base.grouping import ProblemSamples, by_problem, with_samples


class BayesAtN(Metric):
    """The mean over problems of (c + a) / (n + a + b), the posterior mean under a Beta(a, b) prior.

    The default prior is uniform, a = b = 1 (arXiv 2510.04265): the ranking of runs with equal n is that of avg@n. The
    interval is the posterior's, by a normal approximation cut to 0 .. 1: it is about these problems and their sampling
    noise, not about other problems. It has a width where everything is right or wrong.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        prior_right: float = 1.0
        """a: prior right samples of each problem."""
        prior_wrong: float = 1.0
        """b: prior wrong samples of each problem."""

        def __post_init__(self) -> None:
            if not (0 < self.prior_right < math.inf and 0 < self.prior_wrong < math.inf):
                raise ValueError("prior_right and prior_wrong must be above 0; 1 and 1 are the uniform prior")

    config: Config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        from harness.stats.intervals import LEVEL  # numpy

        problems = by_problem(graded)
        used, notes = with_samples(problems, 1)
        if not used:
            return []
        posteriors = [self._posterior(problem) for problem in used]
        mean = math.fsum(a / (a + b) for a, b in posteriors) / len(used)
        variance = math.fsum(a * b / ((a + b) ** 2 * (a + b + 1)) for a, b in posteriors) / len(used) ** 2
        half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(variance)
        prior = f"Beta({self.config.prior_right:g}, {self.config.prior_wrong:g})"
        method = f"{LEVEL:.0%} credible over samples, given these {len(used)} problems, prior {prior}"
        return [
            Estimate(
                f"bayes@{max(problem.n_graded for problem in used)}",
                mean,
                max(0.0, mean - half),
                min(1.0, mean + half),
                len(used),
                sum(problem.n_graded for problem in used),
                sum(problem.n_ungraded for problem in problems),
                "; ".join([method, *notes]),
            )
        ]

    def per_problem(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Mapping[str, float]]:
        used, _ = with_samples(by_problem(graded), 1)
        posteriors = {problem.problem_id: self._posterior(problem) for problem in used}
        return {"bayes": {name: a / (a + b) for name, (a, b) in posteriors.items()}} if used else {}

    def _posterior(self, problem: ProblemSamples) -> tuple[float, float]:
        """Return the parameters of the Beta distribution of the problem's rate."""
        n_wrong = problem.n_graded - problem.n_correct
        return problem.n_correct + self.config.prior_right, n_wrong + self.config.prior_wrong


METRIC = BayesAtN
