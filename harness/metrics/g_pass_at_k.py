"""G-Pass@k: the chance that at least a share tau of k samples is right (Liu et al. 2024), for several tau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import ProblemSamples, by_problem, check_sizes, family_estimate, sizes


class GPassAtK:
    """The mean over problems of the chance that max(1, ceil(tau k)) or more of k drawn samples are right: c of n are,
    and they are drawn without replacement (hypergeometric). The smallest tau gives pass@k, tau = 1 gives pass^k.

    For k = 1, 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        ks: tuple[int, ...] = ()
        """These k instead; a problem with fewer graded samples is left out of that k, and counted."""
        taus: tuple[float, ...] = (0.5, 0.75, 1.0)

        def __post_init__(self) -> None:
            check_sizes(self.ks)
            if not self.taus or not all(0 < tau <= 1 for tau in self.taus):
                raise ValueError("every tau is a share above 0, at most 1")

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        taus = sorted(set(self.config.taus))
        return [_enough_right(k, tau, problems) for k in sizes(self.config.ks, 2, problems) for tau in taus]


def _enough_right(k: int, tau: float, problems: Sequence[ProblemSamples]) -> Estimate:
    from harness.core.stats import g_pass_at_k  # numpy

    # As a decimal, 0.28 * 25 is 7; as floats it is a little more, and would ask for 8.
    n_needed = max(1, math.ceil(Fraction(str(tau)) * k))

    def chances(used: Sequence[ProblemSamples]) -> Sequence[float]:
        return [g_pass_at_k(p.n_graded, p.n_correct, k, n_needed) for p in used]

    return family_estimate(f"g-pass(tau={tau:g})", problems, k, chances)


METRIC: type[Metric] = GPassAtK
