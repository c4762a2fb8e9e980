"""Distinct final answers: how many different answers are among the samples of a problem, solved and unsolved apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.metrics.base.classes import NO_ANSWER, answer_classes
from harness.metrics.base.diversity import Diversity, Part
from harness.metrics.base.grouping import ProblemSamples


class DistinctAnswers(Diversity):
    """The expected number of different final answers among m samples of a problem (rarefaction).

    Right answers are one answer, by the grader's equivalence, unless the task identifies solutions. Wrong ones are
    equal when their normal forms are, and wrong programs when they did the same on all tests that were run: the judge
    stops at the first failing test unless `grader.reward` is `fraction`. A sample without an answer adds none.

    Different answers to a problem that is never solved are noise and not diversity, so `_solved` is the mean over
    problems with a right sample and `_unsolved` that over the others. There is no estimate where the grader does not
    record answers.
    """

    name = "distinct_answers"

    def features(self, problem: ProblemSamples) -> Sequence[str] | None:
        return answer_classes(problem)

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:
        yield Part("", features, are_right=False)
        yield Part("_solved" if problem.n_correct else "_unsolved", features, are_right=False)

    def rarefied(self, features: Sequence[Any], size: int) -> float:
        from harness.stats.diversity import class_counts, coverage  # numpy
        from harness.stats.intervals import pass_at_k

        silent = float(pass_at_k(len(features), features.count(NO_ANSWER), size))
        return max(0.0, coverage(class_counts(features), size) - silent)

    def upper(self, size: int) -> float:
        return float(size)


METRIC = DistinctAnswers
