"""pass^k: the probability that all of k samples are right, unbiased, for several k."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics.base.grouping import Family


class PassHatK(Family):
    """The mean over problems of C(c, k) / C(n, k), with c right of n graded samples. Named `pass-all@k`.

    For k = 1, 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    name = "pass-all"

    def values(self, counts: Sequence[tuple[int, int]], k: int) -> Sequence[float]:
        from harness.stats.intervals import pass_hat_k  # numpy

        n_graded, n_correct = zip(*counts, strict=True)
        found: list[float] = pass_hat_k(n_graded, n_correct, k).tolist()
        return found


METRIC = PassHatK
