"""pass^k: the chance that all of k samples are right, unbiased, for a family of k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import ProblemSamples, by_problem, check_sizes, family_estimate, sizes


class PassHatK:
    """The mean over problems of C(c, k) / C(n, k), with c right of n graded samples. Named `pass-all@k`.

    For k = 1, 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
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
        return [_all_right(k, problems) for k in sizes(self.config.ks, 2, problems)]


def _all_right(k: int, problems: Sequence[ProblemSamples]) -> Estimate:
    from harness.core.stats import pass_hat_k  # numpy

    def chances(used: Sequence[ProblemSamples]) -> Sequence[float]:
        found: list[float] = pass_hat_k([p.n_graded for p in used], [p.n_correct for p in used], k).tolist()
        return found

    return family_estimate("pass-all", problems, k, chances)


METRIC: type[Metric] = PassHatK
