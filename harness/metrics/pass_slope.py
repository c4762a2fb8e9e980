"""Slope of pass@k: how much each doubling of the samples adds to the share of problems solved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.metrics.base.diversity import Diversity, Part
from harness.metrics.base.grouping import ProblemSamples


class PassSlope(Diversity):
    """The least-squares slope of pass@k over log2 k for k = 1, 2, 4 ... m, and the gain pass@m - pass@1.

    Both are means over problems. A model that always gives one answer has slope 0, right or wrong.
    """

    name = "pass_slope"

    def features(self, problem: ProblemSamples) -> Sequence[bool]:
        return [item.verdict.outcome == "correct" for item in problem.graded]

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:  # noqa: ARG002
        yield Part("", features, are_right=False)

    def values(self, features: Sequence[Any], size: int) -> Iterator[tuple[str, float | None]]:
        import numpy as np

        from harness.stats.intervals import pass_at_k

        ks = [1 << power for power in range(size.bit_length())]
        rates = [float(pass_at_k(len(features), sum(features), k)) for k in ks]
        at_size = float(pass_at_k(len(features), sum(features), size))
        yield "pass_slope", max(0.0, float(np.polyfit(np.arange(len(ks)), rates, 1)[0]))
        yield "pass_gain", at_size - rates[0]


METRIC = PassSlope
