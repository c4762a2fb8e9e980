"""Ratings from a frozen file of standings."""

from __future__ import annotations

import hashlib
import json

import pytest
from codeforces_api import CONTESTS, running_api

from harness.commands.standings import fetch_standings
from harness.core.errors import DataError
from harness.core.progress import Progress
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.metrics.base.ratings import StandingsRow, contest_rating
from harness.metrics.codeforces_rating import METRIC


def graded(problem_id, outcomes, coverage="samples"):
    problem = Problem(problem_id, "codeforces", (), None, {"contest": problem_id[:4]})
    for index, is_right in enumerate(outcomes):
        details = {"coverage": coverage}
        verdict = Verdict("correct", 1.0, details=details) if is_right else Verdict("incorrect", 0.0, details=details)
        yield Graded(problem, Completion(problem_id, index, 0, "", "stop", Tokens(1, 1)), verdict)


def test_codeforces_rating_reads_standings_and_names_the_file(tmp_path):
    path = tmp_path / "frozen.json"
    with running_api(CONTESTS) as api:
        fetch_standings(path, list(CONTESTS), Progress(quiet=True), api=api.url, pause_s=0.0)
    items = [
        *graded("1971A", [False, True]),
        *graded("1971F2", [False] * 9 + [True]),
        *graded("1972A", [True]),
        *graded("1972B", [False, False, True], "official"),
        *graded("1980A", [True]),
    ]
    rows = {
        key: [StandingsRow(*row) for row in json.loads(path.read_text())["contests"][key]["rows"]]
        for key in ("1971", "1972")
    }
    in_1972 = contest_rating(2, 20, rows["1972"])
    for procedure, points in (("codeelo", 450), ("flowrl", 450 + 750 - 450)):
        found = METRIC(METRIC.Config(standings=str(path), procedure=procedure)).estimate(items)
        (rating,) = [e for e in found if e.name.startswith("rating (")]
        assert rating.value == (contest_rating(points, 0, rows["1971"]) + in_1972) / 2
        parts = (
            *("mean over 2 contests, 1 left out", "50 points or a penalty of 10", "tests: official / samples"),
            *(f"at most {8 if procedure == 'codeelo' else 16} attempts", f"frozen.json sha256 {sha(path)[:16]}"),
        )
        assert [text for text in parts if text not in rating.method] == []
    with pytest.raises(DataError, match="not of Z"):
        METRIC(METRIC.Config(standings=str(path))).estimate(list(graded("1971Z", [True])))


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2, "contests": {}}', '{"format": 1, "contests": {"1": 5}}']
)
def test_standings_file_of_another_format_is_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s\.json"):
        METRIC(METRIC.Config(standings=str(tmp_path / "s.json"))).estimate(list(graded("1971A", [True])))
