"""potential@k: the share of what a single sample misses that k samples find (Yao et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.core.types import Estimate, Graded
from harness.metrics.base.grouping import AtSeveralK, ProblemSamples, by_problem, sizes, with_samples


class PotentialAtK(AtSeveralK):
    """The sum over problems of pass@k (1 - pass@1), over the sum of 1 - pass@1, each unbiased.

    There is no estimate where no sample is wrong.

    For k = 1, 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        found = [_potential_at(k, problems) for k in sizes(self.config, 2, problems)]
        return [estimate for estimate in found if estimate is not None]


def _potential_at(k: int, problems: Sequence[ProblemSamples]) -> Estimate | None:
    from harness.stats.intervals import DRAWS, INTERVAL_SEED, pass_at_k, ratio_interval  # numpy

    used, notes = with_samples(problems, k)
    n_samples, n_right = [p.n_graded for p in used], [p.n_correct for p in used]
    missed = [1 - c / n for c, n in zip(n_right, n_samples, strict=True)]
    if not any(missed):
        return None
    found = [chance * share for chance, share in zip(pass_at_k(n_samples, n_right, k).tolist(), missed, strict=True)]
    low, high = ratio_interval(found, missed)
    if len(used) == 1 or math.isinf(high):
        low, high, method = 0.0, 1.0, "too few problems with a miss to bound it: the whole range"
    else:
        method = f"95% bootstrap of a ratio over {len(used)} problems, {DRAWS} draws, seed {INTERVAL_SEED}"
    method = "; ".join([method, *notes])
    counts = (len(used), sum(n_samples), sum(p.n_ungraded for p in problems))
    return Estimate(f"potential@{k}", math.fsum(found) / math.fsum(missed), low, high, *counts, method)


METRIC = PotentialAtK
