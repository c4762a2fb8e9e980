"""mG-Pass@k: G-Pass@k averaged over the shares tau above one half (Liu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.metrics.base.grouping import Family, Means, ProblemSamples


class MGPassAtK(Family):
    """The mean over problems of 2 / k times the sum over j = ceil(k/2) + 1 .. k of P(at least j of k samples right).

    c of the n graded samples are right, and k are drawn without replacement (hypergeometric). It is the authors' sum
    for the area under G-Pass@k between tau = 0.5 and 1; for an odd k it is at most (k - 1) / k. For k = 1 it is 0 by
    definition, so k = 1 is left out unless it is asked for.

    For k = 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    name = "mg-pass"

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        return [means for means in super().means(problems) if means.name != "mg-pass@1" or 1 in self.config.ks]

    def values(self, counts: Sequence[tuple[int, int]], k: int) -> Sequence[float]:
        return [_area(n, c, k) for n, c in counts]


def _area(n: int, c: int, k: int) -> float:
    majority = (k + 1) // 2
    # Sum over j > majority of P(X >= j) is E[max(0, X - majority)]. Integers, divided once.
    excess = sum((j - majority) * math.comb(c, j) * math.comb(n - c, k - j) for j in range(majority + 1, min(c, k) + 1))
    return 2 * excess / (k * math.comb(n, k))


METRIC = MGPassAtK
