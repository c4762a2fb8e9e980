"""Graded completions of one task, problem by problem, and the estimate of a mean over them.

Everything is put in order of problem id and sample index first, so that the order of arrival changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from harness.core.errors import UsageError
from harness.core.types import Estimate, Graded


@dataclass(frozen=True, slots=True)
class ProblemSamples:
    """One problem's completions by index: those with a verdict, and the number of those without."""

    problem_id: str
    graded: tuple[Graded[Any], ...]
    n_ungraded: int

    @property
    def n_graded(self) -> int:
        return len(self.graded)

    @property
    def n_correct(self) -> int:
        return sum(item.verdict.outcome == "correct" for item in self.graded)


def by_problem(graded: Iterable[Graded[Any]]) -> list[ProblemSamples]:
    """Every problem in order of its id, those without a single verdict included."""
    ordered = sorted(graded, key=lambda item: (item.problem.id, item.completion.index))
    return [_samples(problem_id, list(items)) for problem_id, items in groupby(ordered, lambda item: item.problem.id)]


def _samples(problem_id: str, items: Sequence[Graded[Any]]) -> ProblemSamples:
    judged = tuple(item for item in items if item.verdict.outcome != "ungraded")
    return ProblemSamples(problem_id, judged, len(items) - len(judged))


def sizes(asked: Sequence[int], base: int, problems: Sequence[ProblemSamples]) -> list[int]:
    """The ks of a family: those asked for, or powers of `base` below the smallest sample count, and that count.

    Problems without a verdict do not count here. A k that no problem has samples for is refused.
    """
    counts = [problem.n_graded for problem in problems if problem.n_graded > 0]
    if not counts:
        return []
    if asked and max(asked) > max(counts):
        raise UsageError(
            f"k = {max(asked)} needs so many graded samples of a problem, and there are {max(counts)} at most; "
            "ask for a smaller k, or run the evaluation again with a larger n (what is on record is kept)"
        )
    smallest = min(counts)
    powers = (base**exponent for exponent in range(smallest.bit_length()))
    return sorted(set(asked)) if asked else sorted({*(k for k in powers if k < smallest), smallest})


def check_sizes(ks: Sequence[int]) -> None:
    if any(k < 1 for k in ks):
        raise ValueError(f"every k is at least 1, not {min(ks)}")


def family_estimate(
    name: str,
    problems: Sequence[ProblemSamples],
    k: int,
    values_of: Callable[[Sequence[ProblemSamples]], Sequence[float]],
    upper: float = 1.0,
) -> Estimate:
    """`name`@k over the problems with at least k graded samples; the method tells how many were left out."""
    used = [problem for problem in problems if problem.n_graded >= k]
    n_left_out = len(problems) - len(used)
    notes = [f"{n_left_out} problems with fewer than {k} graded samples left out"] if n_left_out else []
    return mean_estimate(f"{name}@{k}", used, values_of(used), problems, notes, upper)


def mean_estimate(
    name: str,
    used: Sequence[ProblemSamples],
    values: Sequence[float],
    everything: Sequence[ProblemSamples],
    notes: Sequence[str] = (),
    upper: float = 1.0,
) -> Estimate:
    """The mean of one value a problem, with its interval; ungraded completions are counted over all problems."""
    # Imported here: statistics bring numpy, and listing metrics must stay quick.
    from harness.core.stats import mean_interval

    interval = mean_interval(values, upper=upper)
    return Estimate(
        name=name,
        value=math.fsum(values) / len(values),
        low=interval.low,
        high=interval.high,
        n_problems=len(used),
        n_completions=sum(problem.n_graded for problem in used),
        n_ungraded=sum(problem.n_ungraded for problem in everything),
        method="; ".join([interval.method, *notes]),
    )


def rate_estimate(
    name: str, problems: Sequence[ProblemSamples], holds: Callable[[Graded[Any]], bool]
) -> list[Estimate]:
    """The share of a problem's graded samples of which `holds` is true, averaged over problems."""
    used = [problem for problem in problems if problem.n_graded > 0]
    if not used:
        return []
    notes = [f"{len(problems) - len(used)} problems without a graded sample left out"] if used != problems else []
    values = [sum(map(holds, problem.graded)) / problem.n_graded for problem in used]
    return [mean_estimate(name, used, values, problems, notes)]


def tells_answers(problems: Sequence[ProblemSamples]) -> bool:
    """Whether the grader says what it read: every answer that it judged right or wrong is in `extracted`."""
    return not any(
        item.verdict.extracted is None and (item.verdict.outcome == "correct" or item.verdict.reason == "wrong")
        for problem in problems
        for item in problem.graded
    )
