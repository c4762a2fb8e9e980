"""The live table: counts of each arm, failures, and the remaining time from rates of what has ended."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from harness.core.progress import Progress
from harness.study import live
from harness.study.jobs import ControlJob, EvalJob, Outcome, TrainJob
from harness.study.live import JOBS, Board
from harness.study.runner import Progression, Task


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tasks(folder: Path) -> list[Task]:
    train = [Task(TrainJob(f"a seed {s}", folder / f"s{s}", {}, (10,), (10,)), "a", 10) for s in (1, 2)]
    evals = [Task(EvalJob(f"a seed {s} step 10", (), ()), "a", 4, f"a seed {s}") for s in (1, 2)]
    return [*train, *evals, Task(ControlJob("a controls", folder, {}, "b", "validation"), "a", 1, "a seed 1")]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    found = Terminal()
    monkeypatch.setattr(live.sys, "stderr", found)
    return found


@pytest.fixture
def board(tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(live, "DRAW_EVERY_S", 0.0)
    return Board(tasks(tmp_path), 2, tmp_path, Progress(), n_done=3)


def test_the_table_shows_what_is_done_and_the_time_that_is_left(
    board: Board, terminal: Terminal, tmp_path: Path
) -> None:
    state = Progression({task.label: task for task in tasks(tmp_path)})
    first = state.take()
    assert first is not None and board.remaining_s(state) is None  # no rate is known
    (tmp_path / "s1").mkdir()
    board.watch(state)
    rows = [{"step": step, "reward": 0.5} for step in range(1, 5)]
    (tmp_path / "s1/steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "rew')
    board.watch(state)
    printed = terminal.getvalue()
    assert "3 of 8 jobs done; running: a seed 1 step 4/10 reward 0.50" in printed
    assert "\x1b[2A\x1b[J" in printed  # the two lines of the first drawing are replaced

    def end(task: Task, seconds: float, error: str | None = None) -> None:
        outcome = Outcome(seconds, error)
        state.end(task.label, outcome)
        board.ended(task, outcome)

    end(first, 50.0)
    evaluation = state.take()
    assert evaluation is not None and evaluation.label == "a seed 1 step 10"  # results come early
    end(evaluation, 8.0)
    # 10 steps of 5 s, 4 evaluations of 2 s, and controls of four evaluations, on two workers
    assert board.remaining_s(state) == pytest.approx((10 * 5 + 4 * 2 + 4 * 2) / 2)
    controls = state.take()
    assert controls is not None and controls.kind == "control"
    last = state.take()
    assert last is not None
    end(last, 1.0, "it broke")
    assert state.skipped == {"a seed 2 step 10": "a seed 2"} and state.take() is None
    board.watch(state)
    printed = terminal.getvalue().rpartition("\x1b[J")[2]
    assert "5 of 8 jobs done, 2 FAILED" in printed
    assert "trained 1/2 (1 FAILED)  evaluated 1/2 (1 FAILED)  controls 0/1  a controls" in printed
    board.close()
    assert [json.loads(line)["error"] for line in (tmp_path / JOBS).read_text().splitlines()] == [
        None,
        None,
        "it broke",
    ]


def test_rates_of_former_sessions_count_but_for_jobs_that_failed(board: Board, tmp_path: Path) -> None:
    train, _, evaluation, *_ = tasks(tmp_path)
    for task, seconds, error in ((train, 20.0, None), (train, 900.0, "it broke"), (evaluation, 4.0, None)):
        board.ended(task, Outcome(seconds, error))
    board.close()
    again = Board(tasks(tmp_path), 1, tmp_path, Progress(quiet=True), n_done=0)
    state = Progression({train.label: train})
    assert again.remaining_s(state) == pytest.approx(20.0)
