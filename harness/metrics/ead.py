"""EAD: distinct n-grams over the number expected of as many random words (Liu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics.base.diversity import Diversity, texts_of
from harness.metrics.base.grouping import ProblemSamples


class ExpectationAdjustedDistinct(Diversity):
    """The mean over n of N / (V (1 - ((V - 1) / V)^C)): N different n-grams among C, of m samples together.

    The denominator is the expected number of different ones among C draws from V, so length matters less than in
    distinct-n. Kirk et al. (2024) take the mean over n = 1 .. 5. V is fixed, since values of different V do not
    compare. Undefined where the samples have no n-gram of some n.
    """

    name = "ead"

    @dataclass(frozen=True, slots=True)
    class Config(Diversity.Config):
        most: int = 5
        """The largest n."""
        vocabulary: int = 50_257
        """V, here the size of GPT-2's vocabulary."""

        def __post_init__(self) -> None:
            super(ExpectationAdjustedDistinct.Config, self).__post_init__()
            if self.most < 1 or self.vocabulary < 2:
                raise ValueError("most is at least 1, and vocabulary at least 2")

    config: Config

    def features(self, problem: ProblemSamples) -> Sequence[Any]:
        from harness.metrics.base.words import numbered

        return numbered(texts_of(problem))

    def value(self, features: Sequence[Any]) -> float | None:
        from harness.metrics.base.words import ngram_shares

        counts, size = ngram_shares(features, self.config.most), self.config.vocabulary
        if not all(n_all for _, n_all in counts):
            return None
        expected = [size * (1 - ((size - 1) / size) ** n_all) for _, n_all in counts]
        return sum(n_different / e for (n_different, _), e in zip(counts, expected, strict=True)) / len(counts)


METRIC = ExpectationAdjustedDistinct
