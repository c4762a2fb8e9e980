"""distinct-n: the share of different n-grams among all n-grams of a problem's samples (Li et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics.base.diversity import Diversity, texts_of
from harness.metrics.base.grouping import ProblemSamples


class DistinctN(Diversity):
    """The number of different n-grams over the number of all, pooled over m samples, for each of several n.

    Words are runs of letters and digits, and single other characters. It falls with length whatever is written: compare
    only samples of like length, or read `ead`. Undefined where no sample has n words.
    """

    name = "distinct_n"

    @dataclass(frozen=True, slots=True)
    class Config(Diversity.Config):
        orders: tuple[int, ...] = (2, 4)
        """Every n."""

        def __post_init__(self) -> None:
            super(DistinctN.Config, self).__post_init__()
            if not self.orders or min(self.orders) < 1:
                raise ValueError("orders are at least 1")

    config: Config

    def features(self, problem: ProblemSamples) -> Sequence[Any]:
        from harness.metrics.base.words import numbered

        return numbered(texts_of(problem))

    def values(self, features: Sequence[Any], size: int) -> Iterator[tuple[str, float | None]]:
        from harness.metrics.base.words import ngram_shares

        starts = range(0, len(features) - size + 1, size)
        blocks = [ngram_shares(features[start : start + size], max(self.config.orders)) for start in starts]
        for order in self.config.orders:
            shares = [n_different / n_all for n_different, n_all in (block[order - 1] for block in blocks) if n_all]
            yield f"distinct-{order}", sum(shares) / len(shares) if shares else None


METRIC = DistinctN
