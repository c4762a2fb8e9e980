"""NoveltyBench's utility_k: how useful k samples are to a reader who wants new answers and may stop at any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics.base.classes import novelty_classes
from harness.metrics.base.diversity import Diversity, Part
from harness.metrics.base.grouping import ProblemSamples


class NoveltyUtility(Diversity):
    """The expectation over all orders of the samples of

        (1 - p) / (1 - p^k) * sum over i = 1 .. k of p^(i-1) * [i is the first of its class] * utility of sample i

    (Zhang et al. 2025; p = 0.8 is the reader's patience). Classes are those of `novelty_distinct`. The utility is the
    grader's reward, kept between 0 and 1, where NoveltyBench has a reward model's score from 1 to 10.
    """

    name = "novelty_utility"

    @dataclass(frozen=True, slots=True)
    class Config(Diversity.Config):
        patience: float = 0.8
        """Probability of reading on after each sample."""

        def __post_init__(self) -> None:
            super(NoveltyUtility.Config, self).__post_init__()
            if not 0 < self.patience < 1:
                raise ValueError(f"patience is between 0 and 1, not {self.patience}")

    config: Config

    def features(self, problem: ProblemSamples) -> Sequence[tuple[str, float]] | None:
        classes = novelty_classes(problem)
        if classes is None:
            return None
        rewards = [item.verdict.reward if item.verdict.reward is not None else 0.0 for item in problem.graded]
        return [(name, min(1.0, max(0.0, reward))) for name, reward in zip(classes, rewards, strict=True)]

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:  # noqa: ARG002
        yield Part("", features, are_right=False)

    def rarefied(self, features: Sequence[Any], size: int) -> float:
        from harness.stats.diversity import novelty_utility  # numpy

        utilities: dict[str, list[float]] = defaultdict(list)
        for name, utility in features:
            utilities[name].append(utility)
        counts = [len(found) for found in utilities.values()]
        means = [sum(found) / len(found) for found in utilities.values()]
        return novelty_utility(counts, means, size, self.config.patience)


METRIC = NoveltyUtility
