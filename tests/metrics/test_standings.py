"""Standings from a server that speaks Codeforces' API, frozen into a file, and read by the rating."""

from __future__ import annotations

import hashlib
import json
import socket

import pytest
from codeforces_api import running_api

from harness.cli import main
from harness.commands.standings import contests_of, fetch_standings
from harness.core.errors import DataError, UsageError
from harness.core.progress import Progress
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.metrics.base.ratings import Row, contest_rating
from harness.metrics.codeforces_rating import METRIC

PLAYERS = [(f"p{n}", 5000 - 10 * n, 7 * (n % 3), 2500 - 5 * n) for n in range(300)]
UNRATED = [("guest", 9000, 0, None)]
CONTESTS = {
    "1971": ("Round 1971 (Div. 1)", {"A": 500.0, "B": 1000.0, "F2": 750.0}, [*UNRATED, *PLAYERS]),
    "1972": (
        "Educational",
        {"A": None, "B": None},
        [(h, 6 - n // 60, 9 * n, r) for n, (h, _, _, r) in enumerate(PLAYERS)],
    ),
    "1980": ("Small", {"A": 500.0}, PLAYERS[:50]),
}


def fetched(path, api, contests=tuple(CONTESTS)):
    return fetch_standings(path, contests, Progress(quiet=True), api=api.url, pause_s=0.0)


def test_the_file_holds_rated_players_and_points(tmp_path):
    path = tmp_path / "standings.json"
    with running_api(CONTESTS) as api:
        table = fetched(path, api)
        assert api.asked == [f"contest.{what} {n}" for n in CONTESTS for what in ("standings", "ratingChanges")]
    old = json.loads(path.read_text())
    assert (old["format"], old["source"]) == (1, api.url)
    assert old["contests"]["1971"] == {
        "name": "Round 1971 (Div. 1)",
        "points": {"A": 500.0, "B": 1000.0, "F2": 750.0},
        "rows": [[points, penalty, rating] for _, points, penalty, rating in PLAYERS],
    }
    assert old["contests"]["1972"]["points"] == {}
    assert table.rows[0] == ("1971", "Round 1971 (Div. 1)", 300, 3)
    assert table.notes == (f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}",)
    assert [p.name for p in tmp_path.iterdir()] == ["standings.json"]


def test_a_frozen_file_is_never_changed(tmp_path):
    path = tmp_path / "standings.json"
    path.write_text("mine")
    with running_api(CONTESTS) as api, pytest.raises(UsageError, match="never changed"):
        fetched(path, api)
    assert (path.read_text(), api.asked) == ("mine", [])


def test_what_broke_off_is_gone_on_with(tmp_path):
    path = tmp_path / "standings.json"
    with running_api(CONTESTS) as api:
        with pytest.raises(DataError, match=r"400: contestId: Contest with id 9999 not found"):
            fetched(path, api, ["1971", "9999"])
        assert not path.exists()
        fetched(path, api, ["1971", "1972"])
        assert api.asked.count("contest.standings 1971") == 1
    assert list(json.loads(path.read_text())["contests"]) == ["1971", "1972"]


BUSY = [
    (503, b"<html>busy</html>"),
    (400, {"status": "FAILED", "comment": "Call limit exceeded"}),
    (429, {}),
]


def test_a_busy_server_is_asked_again_and_that_is_said(tmp_path, capsys):
    with running_api(CONTESTS) as api:
        api.refusals = list(BUSY)
        fetch_standings(tmp_path / "s.json", ["1980"], Progress(), api=api.url, pause_s=0.0)
        assert len(api.asked) == 5
        told = capsys.readouterr().err
        assert told.count("asking again") == 3 and "Call limit exceeded" in told
        api.refusals = BUSY[:1] * 4
        with pytest.raises(DataError, match="503"):
            fetched(tmp_path / "t.json", api, ["1980"])


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (200, b"not json"),
        (200, []),
        (200, {"status": "OK"}),
        (200, {"status": "OK", "result": {"rows": []}}),
        (200, {"status": "OK", "result": []}),
        (400, {"status": "FAILED"}),
    ],
)
def test_answers_of_another_form_are_refused(tmp_path, status, value):
    with running_api(CONTESTS) as api:
        api.refusals = [(status, value)]
        with pytest.raises(DataError, match="contest"):
            fetched(tmp_path / "s.json", api, ["1971"])
    assert not (tmp_path / "s.json").exists()


def test_a_server_that_is_not_there_is_told(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError, match="can't be reached"):
            fetch_standings(tmp_path / "s.json", ["1"], Progress(quiet=True), api=url, pause_s=0.0)


def test_the_verb_and_its_default_contests(tmp_path, capsys):
    with running_api(dict(CONTESTS)) as api:
        assert main(["standings", str(tmp_path / "s.json"), "1980", "--api", api.url, "--quiet"]) == 0
        assert "sha256" in capsys.readouterr().out
        api.contests.clear()  # every one is asked for, the first is refused
        assert main(["standings", str(tmp_path / "t.json"), "--api", api.url, "--quiet"]) == 2
        assert api.asked[-1] == "contest.standings 1971"
    assert contests_of(["1980F2", "1971A", "2036G", "1971B", "0a1b2c"]) == ["1971", "1980", "2036"]


def graded(problem_id, outcomes, coverage="samples"):
    problem = Problem(problem_id, "codeforces", (), None, {"contest": problem_id[:4]})
    for index, is_right in enumerate(outcomes):
        details = {"coverage": coverage}
        verdict = Verdict("correct", 1.0, details=details) if is_right else Verdict("incorrect", 0.0, details=details)
        yield Graded(problem, Completion(problem_id, index, 0, "", "stop", Tokens(1, 1)), verdict)


def test_the_rating_reads_points_by_problem_and_names_the_file(tmp_path):
    path = tmp_path / "frozen.json"
    with running_api(CONTESTS) as api:
        fetched(path, api)
    items = [
        *graded("1971A", [False, True]),
        *graded("1971F2", [False] * 9 + [True]),
        *graded("1972A", [True]),
        *graded("1972B", [False, False, True], "official"),
        *graded("1980A", [True]),
    ]
    rows = {
        key: [Row(*row) for row in json.loads(path.read_text())["contests"][key]["rows"]] for key in ("1971", "1972")
    }
    in_1972 = contest_rating(2, 20, rows["1972"])
    for procedure, points in (("codeelo", 450), ("flowrl", 450 + 750 - 450)):
        found = METRIC(METRIC.Config(standings=str(path), procedure=procedure)).estimate(items)
        (rating,) = [e for e in found if e.name.startswith("rating (")]
        assert rating.value == (contest_rating(points, 0, rows["1971"]) + in_1972) / 2
        told = (
            *("mean over 2 contests, 1 left out", "50 points or a penalty of 10", "tests: official / samples"),
            *(f"at most {8 if procedure == 'codeelo' else 16} attempts", f"frozen.json sha256 {sha(path)[:16]}"),
        )
        assert [text for text in told if text not in rating.method] == []
    with pytest.raises(DataError, match="not of Z"):
        METRIC(METRIC.Config(standings=str(path))).estimate(list(graded("1971Z", [True])))


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2, "contests": {}}', '{"format": 1, "contests": {"1": 5}}']
)
def test_a_file_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s\.json"):
        METRIC(METRIC.Config(standings=str(tmp_path / "s.json"))).estimate(list(graded("1971A", [True])))
