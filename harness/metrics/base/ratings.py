"""Arithmetic of CodeForces ratings, as pure functions of numbers.

A player of rating R beats one of rating S, and solves a problem of difficulty S, with the chance
1 / (1 + 10^((S - R) / 400)).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SCALE = math.log(10) / 400
_WIDEST = 8000.0
_HALF_CHI_SQUARE = 1.9207  # of one degree of freedom at 95%


def chance(rating: float, difficulty: float) -> float:
    return 1 / (1 + math.exp(_SCALE * (difficulty - rating)))


def likeliest_rating(difficulties: Sequence[float], shares: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the maximum-likelihood rating and its 95% profile-likelihood interval.

    Each problem counts once, with the share of its samples that solved it. Where nothing or everything was solved the
    likelihood has no maximum, and the result is None.
    """
    if not 0 < math.fsum(shares) < len(shares):
        return None

    def slope(rating: float) -> float:
        return math.fsum(s - chance(rating, d) for d, s in zip(difficulties, shares, strict=True))

    def log_likelihood(rating: float) -> float:
        return -math.fsum(
            s * math.log1p(math.exp(_SCALE * (d - rating))) + (1 - s) * math.log1p(math.exp(_SCALE * (rating - d)))
            for d, s in zip(difficulties, shares, strict=True)
        )

    low, high = min(difficulties) - _WIDEST, max(difficulties) + _WIDEST
    best = _root(slope, low, high)
    floor = log_likelihood(best) - _HALF_CHI_SQUARE
    return (
        best,
        _root(lambda rating: floor - log_likelihood(rating), low, best),
        _root(lambda rating: log_likelihood(rating) - floor, best, high),
    )


def _root(function: object, low: float, high: float) -> float:
    """Return the zero of a decreasing function by bisection; the nearer end where it has none."""
    assert callable(function)
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class StandingsRow:
    """A player in official standings: the score, and the rating before the contest."""

    points: float
    penalty: float
    rating: float


def virtual_score(attempts: Sequence[Sequence[bool]], points: Sequence[float | None]) -> tuple[float, float]:
    """Return (points, penalty) of a player who submits each problem's attempts until one is right, in no time.

    A solved problem that has points gives these less 50 for each failure before. One without points gives 1 point, and
    a penalty of 10 for each failure before.
    """
    score = penalty = 0.0
    for tries, worth in zip(attempts, points, strict=True):
        if True not in tries:
            continue
        n_failures = list(tries).index(True)
        if worth is None:
            score, penalty = score + 1, penalty + 10 * n_failures
        else:
            score += max(0.0, worth - 50 * n_failures)
    return score, penalty


def contest_rating(points: float, penalty: float, rows: Sequence[StandingsRow]) -> int:
    """Return CodeElo's rating for one contest.

    It is the largest whole number, up to 100 above the best player, whose expected place (counted from 1) still reaches
    the place in the standings (counted from 0, as in CodeElo's code).
    """
    worse = (n for n, row in enumerate(rows) if (row.points, -row.penalty) < (points, -penalty))
    place = next(worse, len(rows))
    low, high = 0, int(max(row.rating for row in rows)) + 100
    while high - low > 1:
        middle = (low + high) // 2
        if 1 + math.fsum(chance(row.rating, middle) for row in rows) < place:
            high = middle
        else:
            low = middle
    return low


@dataclass(frozen=True, slots=True)
class Population:
    """The ratings that a percentile refers to."""

    name: str
    ratings: Sequence[float]
    """Ascending."""

    @classmethod
    def of(cls, name: str, data: Mapping[str, int] | Sequence[float]) -> Population:
        """Build from a list of ratings, or from a histogram (rating -> number of players)."""
        if isinstance(data, Mapping):
            return cls(name, [float(rating) for rating in sorted(data, key=float) for _ in range(data[rating])])
        return cls(name, sorted(data))

    def percentile(self, rating: float) -> float:
        """Return the percentage of ratings that are strictly lower."""
        return 100 * bisect_left(self.ratings, rating) / len(self.ratings)
