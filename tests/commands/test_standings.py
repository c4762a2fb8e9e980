"""`harness standings`: contests from a server that speaks Codeforces' API, frozen into a file."""

from __future__ import annotations

import hashlib
import json
import socket

import pytest
from codeforces_api import CONTESTS, PLAYERS, running_api

from harness.cli import main
from harness.commands.standings import contests_of, fetch_standings
from harness.core.errors import DataError, UsageError
from harness.core.progress import Progress


def fetched(path, api, contests=tuple(CONTESTS)):
    return fetch_standings(path, contests, Progress(quiet=True), api=api.url, pause_s=0.0)


def test_standings_file_has_rated_players_and_points(tmp_path):
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


def test_frozen_standings_file_is_never_changed(tmp_path):
    path = tmp_path / "standings.json"
    path.write_text("mine")
    with running_api(CONTESTS) as api, pytest.raises(UsageError, match="never changed"):
        fetched(path, api)
    assert (path.read_text(), api.asked) == ("mine", [])


def test_interrupted_standings_fetch_is_resumed(tmp_path):
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


def test_busy_codeforces_server_is_retried_with_a_progress_line(tmp_path, capsys):
    with running_api(CONTESTS) as api:
        api.refusals = list(BUSY)
        fetch_standings(tmp_path / "s.json", ["1980"], Progress(), api=api.url, pause_s=0.0)
        assert len(api.asked) == 5
        printed = capsys.readouterr().err
        assert printed.count("asking again") == 3 and "Call limit exceeded" in printed
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
def test_codeforces_answers_of_another_form_are_refused(tmp_path, status, value):
    with running_api(CONTESTS) as api:
        api.refusals = [(status, value)]
        with pytest.raises(DataError, match="contest"):
            fetched(tmp_path / "s.json", api, ["1971"])
    assert not (tmp_path / "s.json").exists()


def test_unreachable_codeforces_server_is_named(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError, match="can't be reached"):
            fetch_standings(tmp_path / "s.json", ["1"], Progress(quiet=True), api=url, pause_s=0.0)


def test_the_standings_command_fetches_the_contests_of_the_task_by_default(tmp_path, capsys):
    with running_api(dict(CONTESTS)) as api:
        assert main(["standings", str(tmp_path / "s.json"), "1980", "--api", api.url, "--quiet"]) == 0
        assert "sha256" in capsys.readouterr().out
        api.contests.clear()  # every one is asked for, the first is refused
        assert main(["standings", str(tmp_path / "t.json"), "--api", api.url, "--quiet"]) == 2
        assert api.asked[-1] == "contest.standings 1971"
    assert contests_of(["1980F2", "1971A", "2036G", "1971B", "0a1b2c"]) == ["1971", "1980", "2036"]
