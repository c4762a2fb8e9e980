"""The exact expected majority vote of k samples drawn from n, without enumerating subsets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.metrics.base.grouping import ProblemSamples


@dataclass(frozen=True, slots=True)
class Ballot:
    """Counts of samples by answer, ascending: of each right answer, of each wrong one, and of samples without any."""

    right: tuple[int, ...]
    wrong: tuple[int, ...]
    n_silent: int


def ballot(problem: ProblemSamples) -> Ballot:
    """Count a problem's answers. Right ones differ by solution, wrong ones by text without spaces."""
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for item in problem.graded:
        verdict = item.verdict
        if verdict.outcome == "correct":
            right[str(verdict.details.get("solution", ""))] += 1
        elif verdict.extracted is not None:
            wrong["".join(verdict.extracted.split())] += 1
    n_silent = problem.n_graded - right.total() - wrong.total()
    return Ballot(tuple(sorted(right.values())), tuple(sorted(wrong.values())), n_silent)


def is_prose(problems: Sequence[ProblemSamples]) -> bool:
    """Whether most of the answers are texts of several lines, of which no two are ever equal."""
    answers = [g.verdict.extracted for p in problems for g in p.graded if g.verdict.extracted is not None]
    return 2 * sum("\n" in answer.strip() for answer in answers) > len(answers)


@lru_cache(maxsize=4096)
def majority(cast: Ballot, k: int) -> float:
    """Return the mean over all subsets of k samples of the credit of the right answers."""
    credit = 0.0
    for place, count in enumerate(cast.right):
        others = (*cast.right[:place], *cast.right[place + 1 :], *cast.wrong)
        credit += math.fsum(_wins(count, others, cast.n_silent, k, votes) for votes in range(1, min(count, k) + 1))
    return min(1.0, credit)  # rounding must not lift a certain vote above 1


def _wins(count: int, others: Sequence[int], n_silent: int, k: int, votes: int) -> float:
    """Return the credit of an answer given by `count` samples, from the subsets in which it has `votes` votes.

    Each sample is drawn with probability k / n, conditional on k being drawn in all: all subsets of k are equally
    likely, and no number overflows. `ways[t][m]` is the probability that m of the samples considered so far are drawn,
    t of the other answers have as many votes, and none has more.
    """
    n = count + sum(others) + n_silent
    share = k / n
    n_free = n_silent + sum(other for other in others if other < votes)  # these can't reach as many votes
    ways = [_kept(n_free, share, k)]
    for other in others:
        if other >= votes:
            ways = _with_rival(ways, _kept(other, share, votes), votes, k)
    wins = math.fsum(row[k - votes] / (1 + ties) for ties, row in enumerate(ways))
    return _chance(count, votes, share) * wins / _chance(n, k, share)


def _with_rival(ways: list[list[float]], kept: list[float], votes: int, k: int) -> list[list[float]]:
    grown = [[0.0] * (k + 1) for _ in range(len(ways) + 1)]
    for ties, row in enumerate(ways):
        for m, chance in enumerate(row):
            for more, weight in enumerate(kept[: k - m + 1]) if chance else ():
                grown[ties + (more == votes)][m + more] += chance * weight
    while len(grown) > 1 and not any(grown[-1]):
        grown.pop()
    return grown


def _kept(n: int, share: float, most: int) -> list[float]:
    return [_chance(n, m, share) for m in range(most + 1)]


def _chance(n: int, m: int, share: float) -> float:
    """Return the binomial probability of m heads among n coins."""
    if m > n:
        return 0.0
    if share == 1.0:
        return float(m == n)
    log = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
    return math.exp(log + m * math.log(share) + (n - m) * math.log1p(-share))
