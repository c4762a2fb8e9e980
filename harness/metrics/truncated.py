"""truncated: the share of completions that the token budget cut off, averaged over problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics._grouping import by_problem, rate_estimate


class Truncated:
    """Of a problem's graded samples those whose `finish_reason` is `length`. A rate, so lower is better."""

    @dataclass(frozen=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        return rate_estimate("truncated", by_problem(graded), lambda item: item.completion.finish_reason == "length")


METRIC: type[Metric] = Truncated
