"""The counts of a study hold what its verdict files hold, and survive their CSV file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
import pytest
from page_runs import make_run

from harness.core.config import parse
from harness.core.errors import DataError, RunFolderError
from harness.core.progress import Progress
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import evaluate
from harness.runs.counts import problem_counts
from harness.runs.folder import RunReader
from harness.study.counts import read_counts, study_counts, write_counts
from harness.study.index import EvalCell, write_index


def cell(folder: str, draw: int) -> EvalCell:
    return EvalCell("base", 0, 0, 0.6, draw, "countdown", "test", folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for draw in (1, 2):
        settings = {"model": {"path": "countdown-tiny"}, "tasks": ["countdown"], "n": 8, "limit": 5, "seed": draw}
        config = parse(EvalConfig, {**settings, "sampling": {"temperature": 0.6}})
        evaluate(config, folder / f"T0.6-draw-{draw}", Progress(quiet=True))
    write_index(folder, "small", [cell("T0.6-draw-2", 2), cell("T0.6-draw-1", 1), cell("not-yet", 3)])
    return folder


def counted(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Count a run's verdicts in plain loops."""
    rows = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    by_problem = defaultdict(list)
    for row in {(row["problem_id"], row["index"]): row for row in rows}.values():
        by_problem[row["problem_id"]].append(row)
    found = {}
    for problem, group in by_problem.items():
        solutions = Counter(row["details"]["solution"] for row in group if row["outcome"] == "correct")
        largest_first = " ".join(str(count) for _, count in solutions.most_common())
        n_ungraded = sum(row["outcome"] == "ungraded" for row in group)
        found[problem] = (len(group), sum(solutions.values()), n_ungraded, largest_first)
    return found


def test_the_frame_has_a_row_for_each_problem_of_each_finished_evaluation(study: Path) -> None:
    frame = study_counts(study)
    assert list(frame["draw"]) == [1] * 5 + [2] * 5
    assert set(zip(frame["arm"], frame["seed"], frame["step"], frame["split"], strict=True)) == {("base", 0, 0, "test")}
    for draw in (1, 2):
        rows = frame[frame["draw"] == draw].set_index("problem")
        expected = counted(study / f"T0.6-draw-{draw}")
        assert {
            name: (row["n"], row["correct"], row["ungraded"], row["solutions"]) for name, row in rows.iterrows()
        } == expected
    assert any(" " in text for text in frame["solutions"])  # else the order of solutions was not tested


def test_the_counts_give_the_estimates_of_the_run(study: Path) -> None:
    run = RunReader.read(study / "T0.6-draw-1")
    estimates = {estimate.name: estimate.value for estimate in run.estimates()["countdown"]}
    frame = problem_counts(run)
    assert (frame["correct"] / frame["n"]).mean() == pytest.approx(estimates["avg@8"], abs=1e-12)
    assert frame["solutions"].str.split().str.len().mean() == pytest.approx(estimates["distinct@8"], abs=1e-12)
    assert list(problem_counts(run, n=3)["n"]) == [3] * 5


def test_the_last_verdict_of_the_own_grader_counts(study: Path, tmp_path: Path) -> None:
    run = RunReader.read(study / "T0.6-draw-1")
    lines = (run.folder / "verdicts.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    of_another = {**first, "grader": "other", "outcome": "correct", "reward": 1.0, "details": {"solution": "x"}}
    again = {**first, "outcome": "ungraded", "reward": None, "details": {}, "reason": "it failed"}
    for name in ("run.json", "config.toml", "completions.jsonl"):
        (tmp_path / name).write_text((run.folder / name).read_text())
    rows = [*map(json.loads, lines), again, of_another]
    (tmp_path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = problem_counts(RunReader.read(tmp_path)).set_index("problem")
    assert found.loc[first["problem_id"], "ungraded"] == 1
    assert found["n"].sum() == 40 and found["ungraded"].sum() == 1


@pytest.mark.parametrize("name", ["counts.csv", "counts.csv.gz"])
def test_the_file_gives_the_frame_back(study: Path, tmp_path: Path, name: str) -> None:
    frame = study_counts(study)
    frame.loc[0, "solutions"] = ""
    frame.loc[1, "problem"] = "007"  # an id, not a number
    write_counts(frame, tmp_path / name)
    pd.testing.assert_frame_equal(read_counts(tmp_path / name), frame)


def test_a_study_without_a_finished_evaluation_has_no_rows(tmp_path: Path) -> None:
    write_index(tmp_path, "empty", [cell("not-yet", 1)])
    assert study_counts(tmp_path).empty


def test_what_is_not_a_study_or_not_its_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not the folder of a study: it has no study\.json"):
        study_counts(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"study\.json can't be read"):
        study_counts(tmp_path)
    (tmp_path / "counts.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="does not hold the counts of a study"):
        read_counts(tmp_path / "counts.csv")
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_counts(tmp_path / "none.csv")


def test_lines_with_half_a_surrogate_pair_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("p", 0, "text", "correct", {"reason": "half \ud83d", "solution": "a"})])
    [row] = problem_counts(RunReader.read(run)).itertuples(index=False)
    assert (row.problem, row.n, row.correct, row.solutions) == ("p", 1, 1, "1")
