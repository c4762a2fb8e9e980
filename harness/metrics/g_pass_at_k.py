"""G-Pass@k: the probability that at least a share tau of k samples is right (Liu et al. 2024), for several tau."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from harness.metrics.base.grouping import AtSeveralK, Family, MeanOverProblems, Means, ProblemSamples


class GPassAtK(AtSeveralK, MeanOverProblems):
    """The mean over problems of the probability that max(1, ceil(tau k)) or more of k drawn samples are right.

    c of the n graded samples are right, and k are drawn without replacement (hypergeometric). The smallest tau gives
    pass@k, tau = 1 gives pass^k.

    For k = 1, 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    config: Config

    @dataclass(frozen=True, slots=True)
    class Config(AtSeveralK.Config):
        taus: tuple[float, ...] = (0.5, 0.75, 1.0)

        def __post_init__(self) -> None:
            AtSeveralK.Config.__post_init__(self)
            if not self.taus or not all(0 < tau <= 1 for tau in self.taus):
                raise ValueError("every tau must be above 0 and at most 1")

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        for tau in sorted(set(self.config.taus)):
            yield from _ShareRight(self.config, tau).means(problems)


class _ShareRight(Family):
    """G-Pass@k for one tau."""

    def __init__(self, config: Family.Config, tau: float) -> None:
        super().__init__(config)
        self.name, self._tau = f"g-pass(tau={tau:g})", tau

    def values(self, counts: Sequence[tuple[int, int]], k: int) -> Sequence[float]:
        from harness.stats.intervals import g_pass_at_k  # numpy

        # 0.28 * 25 is 7 as decimals but a little more as floats, which would require 8.
        n_needed = max(1, math.ceil(Fraction(str(self._tau)) * k))
        return [g_pass_at_k(n, c, k, n_needed) for n, c in counts]


METRIC = GPassAtK
