"""Nothing is silent while a model is loaded: `harness train` and `harness eval` report it on stderr."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.cli import main
from harness.core import progress
from harness.tasks import countdown
from harness.trainers import train
from harness.trainers.setup import build_setup


@pytest.mark.parametrize(
    ("words", "reports"),
    [
        (
            ["train", "countdown-grpo", "--set", "loop.steps=1"],
            ["reading the task countdown", "loading countdown-tiny", "step 1"],
        ),
        (
            ["eval", "countdown-tiny", "--tasks", "countdown", "--n", "1", "--limit", "1"],
            ["reading the problems of countdown", "loading countdown-tiny with the engine hf", "the first completion"],
        ),
    ],
)
def test_loading_and_the_first_result_are_reported(
    words: list[str],
    reports: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "WORKING_LINE_EVERY_S", 0.001)
    monkeypatch.setattr(train, "build_setup", lambda *args: (time.sleep(0.05), build_setup(*args))[1])
    for kept in (countdown._pool, countdown._fingerprint):
        kept.cache_clear()  # else the task is read in no time after another test
    assert main([*words, "--out", str(tmp_path / "run")]) in (0, 3)
    printed = capsys.readouterr().err
    assert [report for report in reports if f"{report} ... " not in printed] == []
