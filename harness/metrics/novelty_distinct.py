"""NoveltyBench's distinct_k: the number of classes among k samples, right or wrong, by the grader's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.metrics.base.classes import novelty_classes
from harness.metrics.base.diversity import Part, Rarefied
from harness.metrics.base.grouping import ProblemSamples


class NoveltyDistinct(Rarefied):
    """The expected number of classes among k samples (Zhang et al. 2025).

    A class is a final answer, and of right answers the solution where the task identifies it; samples without an answer
    are one class. NoveltyBench itself uses a trained classifier on open questions, so its numbers do not compare.
    """

    name = "novelty_distinct"

    def features(self, problem: ProblemSamples) -> Sequence[str] | None:
        return novelty_classes(problem)

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:  # noqa: ARG002
        yield Part("", features, are_right=False)

    def of_counts(self, counts: Sequence[int], size: int) -> float:
        from harness.stats.diversity import coverage  # numpy

        return coverage(counts, size)

    def upper(self, size: int) -> float:
        return float(size)


METRIC = NoveltyDistinct
