"""maj@k: the probability that the most frequent answer of k samples is right, over all subsets, ties shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.metrics.base.grouping import AtSeveralK, Family, Means, ProblemSamples, tells_answers
from harness.metrics.base.votes import ballot, is_prose, majority


class MajAtK(Family):
    """The mean over problems of the mean credit of the vote over all subsets of k graded samples.

    A right answer earns 1 / t when it is as frequent as t - 1 others and none is more frequent. A sample without an
    answer does not vote; a subset without votes earns 0. Right answers count as one unless the grader identifies their
    solution; wrong ones differ when their texts without spaces differ. There is no estimate where the grader does not
    record the answers, or where answers are texts of several lines (programs).

    Sharing ties is NeMo-Skills' rule, and in expectation that of lm-eval, where the tied answer that came first wins.
    With `ties = "strict"` it is scorio's rule instead, named `maj(strict)@k`: the vote is right if more than half of
    the k samples are, whatever their texts, so it also applies to programs.

    For k = 1, 4, 16, 64 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    base = 4

    @dataclass(frozen=True, slots=True)
    class Config(AtSeveralK.Config):
        ties: Literal["shared", "strict"] = "shared"
        """shared: tied answers earn equal parts. strict: more than half of the samples must be right."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.name = "maj" if config.ties == "shared" else "maj(strict)"

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        can_vote = tells_answers(problems) and not is_prose(problems)
        return super().means(problems) if can_vote or self.config.ties == "strict" else []

    def count(self, problem: ProblemSamples) -> Any:
        return ballot(problem) if self.config.ties == "shared" else super().count(problem)

    def values(self, counts: Sequence[Any], k: int) -> Sequence[float]:
        if self.config.ties == "shared":
            return [majority(cast, k) for cast in counts]
        from harness.stats.intervals import g_pass_at_k  # numpy

        return [g_pass_at_k(n, c, k, k // 2 + 1) for n, c in counts]


METRIC = MajAtK
