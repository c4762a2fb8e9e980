"""Majority share: the share of the most frequent solution among N right samples."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics.base.diversity import OfSolutions


class MajorityShare(OfSolutions):
    """The expected share of the most frequent solution among N right samples: 1 if all are one solution.

    Unlike the other diversity metrics it falls as diversity rises.
    """

    name = "majority_share"

    def of_counts(self, counts: Sequence[int], size: int) -> float:
        from harness.stats.diversity import majority_share  # numpy

        return majority_share(counts, size)

    def upper(self, size: int) -> float:  # noqa: ARG002
        return 1.0


METRIC = MajorityShare
