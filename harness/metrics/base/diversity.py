"""Base of the diversity metrics: values of the samples of one problem, of all and of the right ones, at equal sizes.

A value is computed from the same number of samples of every problem, because most measures grow or shrink with it. A
measure without a formula for subsets is averaged over the problem's disjoint blocks of that many samples, in order of
their index. A value that is not defined leaves its problem out; it never counts as 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from harness.metrics.base.classes import solution_classes
from harness.metrics.base.grouping import MeanOverProblems, Means, ProblemSamples

Classes = Literal["solution", "strategy"]
FEWEST = 2
"""One sample has no diversity."""


class Part(NamedTuple):
    """Some of a problem's samples: the end of the estimate's name, and the features of the samples."""

    suffix: str
    features: Sequence[Any]
    are_right: bool
    fewest: int | None = None
    """Number of samples that are enough for a value; None for the common size."""


class Diversity(MeanOverProblems):
    """Base of diversity metrics: a subclass defines `features` and `value`, or `rarefied` where a formula is known.

    An estimate is called `name@m` for m samples of each problem, and `name_correct@m` for m right ones.
    """

    measures_diversity: ClassVar[bool] = True
    name: ClassVar[str]

    @dataclass(frozen=True, slots=True)
    class Config:
        samples: int | None = None
        """Samples of each problem; default: the smallest number of graded samples of a problem."""
        correct: int | None = None
        """Right samples of each problem; default: the largest power of 2 that at least half of the problems with two
        right samples have."""

        def __post_init__(self) -> None:
            if any(size is not None and size < FEWEST for size in (self.samples, self.correct)):
                raise ValueError("a diversity needs at least 2 samples: raise samples or correct")

    config: Config

    def features(self, problem: ProblemSamples) -> Sequence[Any] | None:
        """Return what is compared of each graded sample, such as its class or its tokens; None if that is unknown."""
        raise NotImplementedError

    def value(self, features: Sequence[Any]) -> float | None:
        """Return the value of some samples, or None where it is not defined."""
        raise NotImplementedError

    def rarefied(self, features: Sequence[Any], size: int) -> float | None:
        """Return the expected value of `size` of these samples: by default the mean over disjoint blocks."""
        starts = range(0, len(features) - size + 1, size)
        values = [value for start in starts if (value := self.value(features[start : start + size])) is not None]
        return math.fsum(values) / len(values) if values else None

    def upper(self, size: int) -> float:  # noqa: ARG002
        """Return the largest possible value for `size` samples."""
        return 1.0

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:
        """Yield the groups of samples that have an estimate each."""
        yield Part("", features, are_right=False)
        yield Part("_correct", right_of(problem, features), are_right=True)

    def values(self, features: Sequence[Any], size: int) -> Iterator[tuple[str, float | None]]:
        """Yield the values of a group by the name of their measure: one, unless a subclass has several."""
        yield self.name, self.rarefied(features, size)

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        sizes = {False: sample_size(self.config.samples, problems), True: right_size(self.config.correct, problems)}
        found: dict[tuple[str, int], list[tuple[ProblemSamples, float]]] = defaultdict(list)
        for problem in problems:
            features = self.features(problem)
            for part in self.parts(problem, features) if features is not None else ():
                size = sizes[part.are_right]
                if size is None or len(part.features) < (part.fewest if part.fewest is not None else size):
                    continue
                for name, value in self.values(part.features, size):
                    if value is not None:
                        found[f"{name}{part.suffix}", size].append((problem, value))
        for (name, size), pairs in found.items():
            used, values = [problem for problem, _ in pairs], [value for _, value in pairs]
            upper = max(self.upper(size), *values)
            yield Means(f"{name}@{size}", used, values, upper, _left_out(len(problems) - len(used)))


class Rarefied(Diversity):
    """Base of the metrics of classes, whose expectation over subsets is known: a subclass defines `of_counts`."""

    def of_counts(self, counts: Sequence[int], size: int) -> float:
        """Return the expected value of `size` samples, given the number of samples of each class."""
        raise NotImplementedError

    def rarefied(self, features: Sequence[Any], size: int) -> float | None:
        from harness.stats.diversity import class_counts  # numpy

        return self.of_counts(class_counts(features), size)


def right_of(problem: ProblemSamples, features: Sequence[Any]) -> list[Any]:
    """Return the features of the right samples."""
    pairs = zip(problem.graded, features, strict=True)
    return [feature for item, feature in pairs if item.verdict.outcome == "correct"]


def texts_of(problem: ProblemSamples) -> list[str]:
    return [item.completion.load().text for item in problem.graded]


def sample_size(configured: int | None, problems: Sequence[ProblemSamples]) -> int | None:
    """Return the configured number of samples, or the smallest of a problem; None below 2."""
    if configured is not None:
        return configured
    smallest = min((problem.n_graded for problem in problems if problem.n_graded), default=0)
    return smallest if smallest >= FEWEST else None


def right_size(configured: int | None, problems: Sequence[ProblemSamples]) -> int | None:
    """Return the configured number of right samples, or `common_size` of the problems."""
    return configured if configured is not None else common_size([problem.n_correct for problem in problems])


def common_size(numbers: Sequence[int]) -> int | None:
    """Return the largest power of 2 that at least half of the numbers of at least 2 reach; None if there is none."""
    usable = sorted((number for number in numbers if number >= FEWEST), reverse=True)
    if not usable:
        return None
    reached = usable[(len(usable) - 1) // 2]
    return 1 << (reached.bit_length() - 1)


def _left_out(n_problems: int) -> tuple[str, ...]:
    return (f"{n_problems} problems without a value left out",) if n_problems else ()


class OfSolutions(Rarefied):
    """Base of the metrics of the classes that right samples fall into; there is no estimate where they are unknown."""

    @dataclass(frozen=True, slots=True)
    class Config(Diversity.Config):
        classes: Classes = "solution"
        """`solution`: the task's canonical form of a right answer, or the normal syntax tree of a program. `strategy`:
        the label that a judge gave it, see `harness diversity`."""

    config: Config

    @property
    def prefix(self) -> str:
        return "" if self.config.classes == "solution" else f"{self.config.classes}_"

    def features(self, problem: ProblemSamples) -> Sequence[str | None] | None:
        return solution_classes(problem, self.config.classes)

    def parts(self, problem: ProblemSamples, features: Sequence[Any]) -> Iterator[Part]:
        yield Part("", right_of(problem, features), are_right=True)

    def values(self, features: Sequence[Any], size: int) -> Iterator[tuple[str, float | None]]:
        yield f"{self.prefix}{self.name}", self.rarefied(features, size)

    def upper(self, size: int) -> float:
        return float(size)
