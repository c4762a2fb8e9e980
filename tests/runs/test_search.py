"""Runs among and below the paths that a user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import RunFolderError, UsageError
from harness.runs.search import find_runs


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A run, a train run with held-out evaluations, two runs of a demo, a hidden one, and things that are not runs."""
    for name in ("a", "train/evals/step-2", "train/evals/step-1", "train", "demo/y", "demo/deep/x", ".trash/z"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "run.json").touch()
    (tmp_path / "train" / "checkpoints" / "step-2").mkdir(parents=True)
    (tmp_path / "report").mkdir()
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_a_folder_is_searched_and_a_train_run_brings_its_evaluations(place: Path) -> None:
    found = find_runs([place])
    names = [str(folder.relative_to(place)) for folder in found.folders]
    assert names == ["a", "demo/deep/x", "demo/y", "train", "train/evals/step-1", "train/evals/step-2"]
    assert found.skipped_text() is None


def test_each_run_comes_once_in_the_order_named(place: Path) -> None:
    found = find_runs([place / "train" / "evals" / "step-2", place / "demo", place / "train", place / "demo" / "y"])
    names = [str(folder.relative_to(place)) for folder in found.folders]
    assert names == ["train/evals/step-2", "demo/deep/x", "demo/y", "train", "train/evals/step-1"]


def test_paths_without_a_run_are_skipped_with_one_line(place: Path) -> None:
    found = find_runs([place / "report", place / "a", place / "notes.txt"])
    assert found.folders == [place / "a"]
    assert found.skipped_text() == f"skipped, as no run is in it: {place}/report, {place}/notes.txt"
    many = [place / f"{n}" for n in range(7)]
    for path in many:
        path.mkdir()
    assert str(find_runs([*many, place / "a"]).skipped_text()).endswith(f"{place}/4 and 2 more")


def test_nothing_to_find_is_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="no run is given"):
        find_runs([])
    with pytest.raises(RunFolderError, match=r"absent is not a run folder: it has no run\.json"):
        find_runs([place / "a", place / "absent"])
    with pytest.raises(RunFolderError, match=r"report is not a run folder: it has no run\.json, and no folder below"):
        find_runs([place / "report"])
    with pytest.raises(RunFolderError, match=r"report, .*notes\.txt are not run folders: no run\.json is in them"):
        find_runs([place / "report", place / "notes.txt"])
