"""pass@k: the probability that at least one of k samples is right, unbiased, for several k."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics.base.grouping import Family


class PassAtK(Family):
    """The mean over problems of 1 - C(n-c, k) / C(n, k), with c right of n graded samples (Chen et al. 2021).

    For k = 1, 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    name = "pass"

    def values(self, counts: Sequence[tuple[int, int]], k: int) -> Sequence[float]:
        from harness.stats.intervals import pass_at_k  # numpy

        n_graded, n_correct = zip(*counts, strict=True)
        found: list[float] = pass_at_k(n_graded, n_correct, k).tolist()
        return found


METRIC = PassAtK
