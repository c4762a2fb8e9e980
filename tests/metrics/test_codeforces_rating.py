"""Ratings against a scan over all whole numbers, another maximiser, a real round, and printed percentiles."""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from pathlib import Path

import numpy
import pytest
from scipy.optimize import minimize_scalar

from harness.core.errors import DataError
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.metrics.base.ratings import Population, StandingsRow, contest_rating, likeliest_rating, virtual_score
from harness.metrics.codeforces_rating import METRIC

DATA = os.environ.get("HARNESS_DATA_DIR")
needs_data = pytest.mark.skipif(DATA is None, reason="HARNESS_DATA_DIR does not say where the data is")

DIFFICULTIES = [800, 1000, 1200, 1500, 1500, 1900, 2400]
SHARES = [1.0, 0.75, 1.0, 0.5, 0.25, 0.0, 0.0]


def log_likelihood(rating):
    p = 1 / (1 + 10 ** ((numpy.array(DIFFICULTIES) - rating) / 400))
    return float(numpy.sum(numpy.array(SHARES) * numpy.log(p) + (1 - numpy.array(SHARES)) * numpy.log1p(-p)))


def test_codeforces_rating_is_the_likeliest_with_its_interval():
    value, low, high = likeliest_rating(DIFFICULTIES, SHARES)
    best = minimize_scalar(lambda r: -log_likelihood(r), bounds=(0, 4000), method="bounded", options={"xatol": 1e-8})
    assert value == pytest.approx(best.x, abs=1e-3)
    for end in (low, high):
        assert 2 * (log_likelihood(value) - log_likelihood(end)) == pytest.approx(3.8415, abs=1e-3)
    assert low < value < high


def test_codeforces_rating_is_absent_if_nothing_or_everything_is_solved():
    assert likeliest_rating([1000, 2000], [0.0, 0.0]) is None
    assert likeliest_rating([1000, 2000], [1.0, 1.0]) is None
    assert likeliest_rating([], []) is None


def test_virtual_contest_score_follows_the_attempts():
    attempts = [[True], [False, False, True], [False] * 8, [False] * 7 + [True]]
    assert virtual_score(attempts, [500, 1000, 1500, 300]) == (500 + 900 + 0 + 0, 0)
    assert virtual_score(attempts, [None] * 4) == (3, 20 + 70)


ROWS = [StandingsRow(4000 - 10 * n, 5.0 * (n % 3), 2600 - 7 * n) for n in range(250)]


@pytest.mark.parametrize("points", [5000, 4000, 3999, 2500, 1600, 1510, 0])
def test_contest_rating_by_bisection_agrees_with_a_scan(points):
    place = sum(1 for row in ROWS if (row.points, -row.penalty) >= (points, -5.0))

    def expected_place(rating):
        return 1 + sum(1 / (1 + 10 ** ((rating - row.rating) / 400)) for row in ROWS)

    reached = [rating for rating in range(2600 + 100) if expected_place(rating) >= place]
    assert contest_rating(points, 5.0, ROWS) == max(reached, default=0)


@needs_data
def test_real_round_gives_the_published_performances_up_to_a_constant():
    """They are the ratings that a round would not have changed, and every change has the same term for deflation."""
    folder = Path(DATA, "codeforces")
    data = json.loads((folder / "round-1349-641-div1-data.json").read_text())
    performances = dict(json.loads((folder / "round-1349-641-div1-perfs.json").read_text()))
    rows = [StandingsRow(points, penalty, rating) for _, points, penalty, rating, _ in data]
    middle = [row for row in data[100:900:40] if isinstance(performances[row[0]], (int, float))]
    differences = [contest_rating(row[1], row[2], rows) - performances[row[0]] for row in middle]
    assert len(differences) >= 15
    assert numpy.ptp(differences) <= 3
    assert abs(numpy.mean(differences)) < 60


@needs_data
def test_rating_percentiles_are_given_in_both_populations():
    folder = Path(DATA, "codeforces")
    histogram = json.loads((folder / "ratings_2024.json").read_text())
    everyone = json.loads((folder / "codeelo_sorted_ratings.json").read_text())
    of_2024, of_all = Population.of("ratings_2024", histogram), Population.of("codeelo", everyone)
    assert (len(of_2024.ratings), len(of_all.ratings)) == (89_352, 717_421)
    printed = {886.68: 19.4, 1208.03: 56.8, 1313.82: 67.1, 1403.07: 73.7, 1549.47: 83.3}  # of FlowRL's paper
    assert {rating: round(of_2024.percentile(rating), 1) for rating in printed} == printed
    assert [round(p.percentile(r), 1) for r in (1500, 1936) for p in (of_2024, of_all)] == [80.7, 86.1, 95.2, 97.2]


def graded(problem_id, outcomes, **tags):
    problem = Problem(problem_id, "codeforces", (), None, tags)
    for index, is_right in enumerate(outcomes):
        verdict = Verdict("correct", 1.0) if is_right else Verdict("incorrect", 0.0)
        yield Graded(problem, Completion(problem_id, index, 0, "", "stop", Tokens(1, 1)), verdict)


def estimates(items, **options):
    return {e.name: e for e in METRIC(METRIC.Config(**options)).estimate(items)}


def test_rating_is_estimated_from_problem_difficulties():
    items = [
        item
        for n, (difficulty, share) in enumerate(zip(DIFFICULTIES, SHARES, strict=True))
        for item in graded(f"p{n}", [i < 4 * share for i in range(4)], rating=str(difficulty))
    ]
    found = estimates(items)["rating"]
    assert (found.value, found.low, found.high) == pytest.approx(likeliest_rating(DIFFICULTIES, SHARES))
    assert (found.n_problems, found.n_completions) == (7, 28)
    with pytest.raises(DataError, match="is not a number"):
        estimates(list(graded("p", [True], rating="hard")))
    assert estimates(list(graded("p", [True]))) == {}


def test_a_percentile_names_its_population(tmp_path):
    (tmp_path / "players.json").write_text(json.dumps([row.rating for row in ROWS]))
    items = [*graded("a", [True], rating="1500"), *graded("b", [False], rating="1700")]
    found = estimates(items, population=str(tmp_path / "players.json"))
    ratings = sorted(row.rating for row in ROWS)
    assert found["percentile"].value == 100 * bisect_left(ratings, found["rating"].value) / 250
    assert "250 ratings in players" in found["percentile"].method
    assert math.isfinite(found["percentile"].low)


def test_a_missing_population_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json"):
        estimates(list(graded("p", [True], contest="1")), standings=str(tmp_path / "nowhere.json"))
