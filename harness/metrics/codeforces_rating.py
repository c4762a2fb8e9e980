"""CodeForces rating: maximum likelihood from problem difficulties; from standings as CodeElo or FlowRL do it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import DataError
from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics.base.grouping import ProblemSamples, by_problem
from harness.metrics.base.ratings import Population, contest_rating, likeliest_rating, virtual_score
from harness.metrics.base.standings import Contest, Standings

_FEWEST_PLAYERS = 200
_ATTEMPTS = {"codeelo": 8, "flowrl": 16}
_TITLES = {"codeelo": "CodeElo", "flowrl": "FlowRL"}


class CodeforcesRating(Metric):
    """The rating of a player who submits the samples. A problem's tags hold its difficulty `rating` and its `contest`.

    From difficulties: maximum likelihood, each problem counted once with the share of samples that solved it. From
    standings: a rating for each contest, then their plain mean. The method names the coverage of the tests and does not
    correct for it: with sample tests alone both ratings are too high.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        standings: str | None = None
        """A file written by `harness standings`. Contests of 200 players or fewer are left out."""
        procedure: Literal["codeelo", "flowrl"] = "codeelo"
        """`codeelo` submits at most 8 samples of a problem, `flowrl` 16; the arithmetic is the same."""
        population: str | None = None
        """A JSON file of ratings, a list or a histogram, to compute percentiles, which are named by the file."""

    config: Config

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = [problem for problem in by_problem(graded) if problem.n_graded > 0]
        found = [*_from_difficulties(problems), *self._from_standings(problems)]
        if self.config.population is None:
            return found
        population = Population.of(Path(self.config.population).stem, _read(self.config.population))
        return [*found, *(_percentile(estimate, population) for estimate in found)]

    def _from_standings(self, problems: Sequence[ProblemSamples]) -> Iterable[Estimate]:
        if self.config.standings is None:
            return []
        standings = Standings.read(self.config.standings)
        n_attempts, title = _ATTEMPTS[self.config.procedure], _TITLES[self.config.procedure]
        used, ratings, n_left_out = [], [], 0
        for number, some in _by_contest(problems).items():
            contest = standings.contests.get(number)
            if contest is None or len(contest.rows) <= _FEWEST_PLAYERS:
                n_left_out += 1
                continue
            used += some
            ratings.append(contest_rating(*_score(number, some, n_attempts, contest), contest.rows))
        if not ratings:
            return []
        from harness.stats.intervals import INTERVAL_SEED, bootstrap_interval  # numpy

        low, high = bootstrap_interval(ratings, INTERVAL_SEED)
        rules = f"at most {n_attempts} attempts per problem, each failure costs 50 points or a penalty of 10"
        left_out = f", {n_left_out} left out without standings" if n_left_out else ""
        method = (
            f"plain mean over {len(ratings)} contests{left_out}; {rules}, time nothing; {_coverage(used)}; "
            f"{standings.name} sha256 {standings.sha256[:16]}; 95% bootstrap over contests"
        )
        return [_estimate(f"rating ({title})", math.fsum(ratings) / len(ratings), low, high, used, method)]


def _from_difficulties(problems: Sequence[ProblemSamples]) -> list[Estimate]:
    rated = [problem for problem in problems if "rating" in problem.graded[0].problem.tags]
    found = likeliest_rating([_difficulty(p) for p in rated], [p.n_correct / p.n_graded for p in rated])
    if found is None:
        return []
    method = f"maximum likelihood, 95% profile likelihood over {len(rated)} problems; {_coverage(rated)}"
    return [_estimate("rating", *found, rated, method)]


def _difficulty(problem: ProblemSamples) -> float:
    text = problem.graded[0].problem.tags["rating"]
    try:
        return float(text)
    except ValueError:
        raise DataError(f"the problem {problem.problem_id} has the rating {text!r}, which is not a number") from None


def _by_contest(problems: Sequence[ProblemSamples]) -> dict[str, list[ProblemSamples]]:
    found: dict[str, list[ProblemSamples]] = {}
    for problem in problems:
        contest = problem.graded[0].problem.tags.get("contest")
        if contest is not None:
            found.setdefault(contest, []).append(problem)
    return found


def _score(
    number: str, problems: Sequence[ProblemSamples], most_attempts: int, contest: Contest
) -> tuple[float, float]:
    attempts = [[g.verdict.outcome == "correct" for g in problem.graded[:most_attempts]] for problem in problems]
    return virtual_score(attempts, [contest.worth(problem.problem_id.removeprefix(number)) for problem in problems])


def _coverage(problems: Sequence[ProblemSamples]) -> str:
    """Name the tests that the verdicts rest on."""
    coverages = {g.verdict.details.get("coverage") for problem in problems for g in problem.graded} - {None}
    return f"tests: {' / '.join(sorted(map(str, coverages)))}" if coverages else "tests not recorded"


def _percentile(estimate: Estimate, population: Population) -> Estimate:
    value, low, high = (population.percentile(rating) for rating in (estimate.value, estimate.low, estimate.high))
    method = f"share of the {len(population.ratings)} ratings in {population.name} that are lower; {estimate.method}"
    counts = (estimate.n_problems, estimate.n_completions, estimate.n_ungraded)
    return Estimate(estimate.name.replace("rating", "percentile", 1), value, low, high, *counts, method)


def _estimate(
    name: str, value: float, low: float, high: float, used: Sequence[ProblemSamples], method: str
) -> Estimate:
    n_completions, n_ungraded = sum(p.n_graded for p in used), sum(p.n_ungraded for p in used)
    return Estimate(name, value, low, high, len(used), n_completions, n_ungraded, method)


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as JSON: {error}") from None


METRIC = CodeforcesRating
