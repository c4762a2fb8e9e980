"""LiveCodeBench's releases, increments and date windows, and settings of them that say two things at once."""

import pytest
from official_shapes import livecodebench_row, write

from harness.core import config as configs
from harness.core.errors import ConfigError

HUB = "livecodebench/code_generation_lite"
DATES = ("2023-05-07", "2023-09-30", "2024-01-20", "2024-05-11", "2024-08-01", "2025-04-05")


def task(**settings):
    return configs.parse_plugin("tasks", {"id": "livecodebench", **settings}).build()


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    """The hub's six files with a problem each, p1 to p6."""
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    for n, date in enumerate(DATES, 1):
        row = livecodebench_row(f"p{n}", "[]", contest_date=f"{date}T00:00:00")
        write(tmp_path / HUB / f"test{n if n > 1 else ''}.jsonl", [row])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "123456"),
        ({"release": "release_v1"}, "1"),
        ({"release": "release_v4"}, "1234"),
        ({"release": "v4"}, "4"),
        ({"start": "2024-01-20"}, "3456"),
        ({"end": "2024-01-20"}, "123"),
        ({"release": "release_v5", "start": "2023-09-30", "end": "2024-05-11"}, "234"),
        ({"window": "flowrl"}, "5"),
        ({"window": "flowrl", "release": "release_v5", "start": "2024-08-01", "end": "2025-02-01"}, "5"),
    ],
)
def test_livecodebench_releases_are_cumulative_and_windows_include_both_dates(settings, expected):
    assert sorted(problem.id for problem in task(**settings).problems("test", 0)) == [f"p{n}" for n in expected]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"release": "v7"}, "no release 'v7'"),
        ({"window": "flowrl", "release": "release_v6"}, "sets release = 'release_v5'; leave out release"),
        ({"window": "flowrl", "end": "2025-03-01"}, "sets end = '2025-02-01'; leave out end"),
        ({"start": "20240801"}, "'20240801' is not a date"),
        ({"start": "yesterday"}, "'yesterday' is not a date"),
    ],
)
def test_contradictory_livecodebench_settings_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        task(**settings)


def test_window_without_a_contest_does_not_blame_the_file():
    with pytest.raises(ConfigError, match="release_v6 of LiveCodeBench has no contest from '2030-01-01' to ''"):
        task(start="2030-01-01").loaded("test")


def test_release_with_missing_problems_differs_from_the_record():
    assert "174 more of v6: missing" in task(release="v6").loaded("test").differing
    assert "1049 more of release_v6: missing" in task(release="release_v6").loaded("test").differing
