"""Group graded completions by problem, and estimate means over problems.

Problems are sorted by id and samples by index first, so the order of arrival changes no bit of a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UsageError
from harness.core.protocols import Metric
from harness.core.types import CLUSTER_TAG, Estimate, Graded


@dataclass(frozen=True, slots=True)
class ProblemSamples:
    """One problem's graded completions in order of their index, with counts."""

    problem_id: str
    graded: tuple[Graded[Any], ...]
    n_correct: int
    n_ungraded: int

    @property
    def n_graded(self) -> int:
        return len(self.graded)


@dataclass(frozen=True, slots=True)
class Means:
    """The values that an estimate is the mean of: one between 0 and `upper` for each problem that is used."""

    name: str
    used: Sequence[ProblemSamples]
    values: Sequence[float]
    upper: float = 1.0
    notes: tuple[str, ...] = ()


class MeanOverProblems(Metric):
    """Base of metrics whose estimates are means over problems: a subclass defines `means`, and `Config` for options."""

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        """Return the values of each estimate; nothing where there is no estimate."""
        raise NotImplementedError

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        return [mean_estimate(means, problems) for means in self.means(problems)]

    def per_problem(self, graded: Sequence[Graded[Any]]) -> Mapping[str, Mapping[str, float]]:
        return {
            means.name: {problem.problem_id: value for problem, value in zip(means.used, means.values, strict=True)}
            for means in self.means(by_problem(graded))
        }


class AtSeveralK(Metric):
    """Base of metrics with an estimate for each of several k."""

    @dataclass(frozen=True, slots=True)
    class Config:
        ks: tuple[int, ...] = ()
        """Only these k. A problem with fewer graded samples than k is left out of that k, and counted."""
        every_k: bool = False
        """Every k up to the smallest number of graded samples of a problem."""

        def __post_init__(self) -> None:
            if any(k < 1 for k in self.ks):
                raise ValueError(f"every k is at least 1, not {min(self.ks)}")
            if self.ks and self.every_k:
                raise ValueError("ks names some k and every_k asks for all: set only one of them")

    config: Config

    @classmethod
    def samples_needed(cls, options: Config) -> int:
        return max(options.ks, default=1)


class Family(AtSeveralK, MeanOverProblems):
    """Base of metrics with an estimate `name@k` for each of several k: a subclass defines `values`."""

    name: str
    base: int = 2

    def count(self, problem: ProblemSamples) -> Any:
        """Return the counts that `values` needs of a problem: by default of its graded and of its correct samples."""
        return problem.n_graded, problem.n_correct

    def values(self, counts: Sequence[Any], k: int) -> Sequence[float]:
        """Return the value of each problem from its counts. All have at least k graded samples."""
        raise NotImplementedError

    def upper(self, _k: int) -> float:
        """Return the largest possible value."""
        return 1.0

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        counts = {problem.problem_id: self.count(problem) for problem in problems}
        for k in sizes(self.config, self.base, problems):
            used, notes = with_samples(problems, k)
            values = self.values([counts[problem.problem_id] for problem in used], k)
            yield Means(f"{self.name}@{k}", used, values, self.upper(k), notes)


def by_problem(graded: Iterable[Graded[Any]]) -> list[ProblemSamples]:
    """Group completions by problem, in order of the problems' ids; also problems without a verdict."""
    found: dict[str, list[Graded[Any]]] = {}
    for item in graded:
        found.setdefault(item.problem.id, []).append(item)
    return [_samples(problem_id, items) for problem_id, items in sorted(found.items())]


def _samples(problem_id: str, items: Sequence[Graded[Any]]) -> ProblemSamples:
    ordered = sorted(items, key=lambda item: item.completion.index)
    outcomes = [item.verdict.outcome for item in ordered]
    judged = tuple(item for item, outcome in zip(ordered, outcomes, strict=True) if outcome != "ungraded")
    return ProblemSamples(problem_id, judged, outcomes.count("correct"), len(items) - len(judged))


def with_samples(problems: Sequence[ProblemSamples], k: int) -> tuple[list[ProblemSamples], tuple[str, ...]]:
    """Return the problems with at least k graded samples, and a note on how many were left out."""
    used = [problem for problem in problems if problem.n_graded >= k]
    n_left_out = len(problems) - len(used)
    if not n_left_out:
        return used, ()
    too_few = "without a graded sample" if k == 1 else f"with fewer than {k} graded samples"
    return used, (f"{n_left_out} problems {too_few} left out",)


def sizes(config: AtSeveralK.Config, base: int, problems: Sequence[ProblemSamples]) -> Sequence[int]:
    """Return the configured k, or powers of `base` below the smallest count of graded samples, and that count.

    Problems without a verdict are ignored. A k that no problem has enough samples for is refused.
    """
    counts = [problem.n_graded for problem in problems if problem.n_graded > 0]
    if not counts:
        return []
    if config.ks and max(config.ks) > max(counts):
        raise UsageError(
            f"k = {max(config.ks)} needs that many graded samples of a problem, and there are {max(counts)} at most; "
            "ask for a smaller k, or run the evaluation again with a larger n (existing completions are kept)"
        )
    if config.ks:
        return sorted(set(config.ks))
    smallest = min(counts)
    if config.every_k:
        return range(1, smallest + 1)
    powers = (base**exponent for exponent in range(smallest.bit_length()))
    return sorted({*(k for k in powers if k < smallest), smallest})


def mean_estimate(means: Means, everything: Sequence[ProblemSamples]) -> Estimate:
    """Return the mean with its interval. Ungraded completions are counted over all problems."""
    # Imported here because it imports numpy, and listing metrics must stay quick.
    from harness.stats.intervals import mean_interval

    clusters = [_cluster(problem) for problem in means.used]
    interval = mean_interval(means.values, upper=means.upper, clusters=clusters)
    return Estimate(
        name=means.name,
        value=math.fsum(means.values) / len(means.values),
        low=interval.low,
        high=interval.high,
        n_problems=len(means.used),
        n_completions=sum(problem.n_graded for problem in means.used),
        n_ungraded=sum(problem.n_ungraded for problem in everything),
        method="; ".join([interval.method, *means.notes]),
    )


def _cluster(problem: ProblemSamples) -> tuple[bool, str]:
    """Return the problem's cluster; without one, a cluster of its own."""
    family = problem.graded[0].problem.tags.get(CLUSTER_TAG)
    return family is not None, family if family is not None else problem.problem_id


def rate(name: str, problems: Sequence[ProblemSamples], holds: Callable[[Graded[Any]], bool]) -> list[Means]:
    """Return for each problem the share of graded samples for which `holds` is true."""
    used, notes = with_samples(problems, 1)
    values = [sum(map(holds, problem.graded)) / problem.n_graded for problem in used]
    return [Means(name, used, values, notes=notes)] if used else []


def per_right_answer(
    name: str, tops: Sequence[float], used: Sequence[ProblemSamples], everything: Sequence[ProblemSamples]
) -> list[Estimate]:
    """Return the sum of `tops` (one per problem) over the number of right answers.

    There is no estimate where nothing is right, or so few problems that the interval has no upper end.
    """
    n_right = [problem.n_correct for problem in used]
    if sum(n_right) == 0 or len(used) == 1:
        return []
    from harness.stats.intervals import DRAWS, INTERVAL_SEED, ratio_interval  # numpy

    low, high = ratio_interval(tops, n_right)
    if math.isinf(high):
        return []
    method = f"95% bootstrap of a ratio over {len(used)} problems, {DRAWS} draws, seed {INTERVAL_SEED}"
    counts = (len(used), sum(p.n_graded for p in used), sum(p.n_ungraded for p in everything))
    _, notes = with_samples(everything, 1)
    return [Estimate(name, math.fsum(tops) / sum(n_right), low, high, *counts, "; ".join([method, *notes]))]


def tells_answers(problems: Sequence[ProblemSamples]) -> bool:
    """Whether the grader records the answers it judged: every right or wrong verdict has an `extracted`."""
    return not any(
        item.verdict.extracted is None and (item.verdict.outcome == "correct" or item.verdict.reason == "wrong")
        for problem in problems
        for item in problem.graded
    )
