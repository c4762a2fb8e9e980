"""All diversity metrics that need neither a model nor a judge, at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core import registry
from harness.core.config import parse_plugin
from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded


class EveryDiversity(Metric):
    """Every metric of `harness list metrics` that measures diversity, at the same numbers of samples."""

    @dataclass(frozen=True, slots=True)
    class Config:
        samples: int | None = None
        """Samples of each problem; default: the smallest number of graded samples of a problem."""
        correct: int | None = None
        """Right samples of each problem; default: the largest power of 2 that at least half of the problems with two
        right samples have."""

    config: Config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        return [estimate for metric in self._members() for estimate in metric.estimate(graded)]

    def per_problem(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Mapping[str, float]]:
        return {name: values for metric in self._members() for name, values in metric.per_problem(graded).items()}

    def _members(self) -> list[Metric]:
        sizes = {"samples": self.config.samples, "correct": self.config.correct}
        given = {key: size for key, size in sizes.items() if size is not None}
        return [parse_plugin("metrics", {"id": name, **given}).build() for name in _members()]


def _members() -> list[str]:
    found = {name: registry.load("metrics", name) for name in registry.entries("metrics")}
    return [name for name, metric in found.items() if metric.measures_diversity and not metric.loads_model]


METRIC = EveryDiversity
