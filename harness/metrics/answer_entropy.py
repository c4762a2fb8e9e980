"""Answer entropy: how evenly the samples of a problem spread over final answers, solved and unsolved apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from harness.metrics.base.classes import answer_classes
from harness.metrics.base.diversity import Part, Rarefied
from harness.metrics.base.grouping import ProblemSamples


class AnswerEntropy(Rarefied):
    """The expected entropy in bits of the final answers among m samples: 0 if all agree, log2 m if all differ.

    Answers are equal as in `distinct_answers`; samples without an answer count as one answer. `_solved` is the mean
    over problems with a right sample, `_unsolved` that over the others.
    """

    name = "answer_entropy"

    def features(self, problem: ProblemSamples) -> Sequence[str] | None:
        return answer_classes(problem)

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:
        yield Part("", features, are_right=False)
        yield Part("_solved" if problem.n_correct else "_unsolved", features, are_right=False)

    def of_counts(self, counts: Sequence[int], size: int) -> float:
        from harness.stats.diversity import entropy  # numpy

        return entropy(counts, size)

    def upper(self, size: int) -> float:
        return math.log2(size)


METRIC = AnswerEntropy
