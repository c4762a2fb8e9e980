"""A user's module on the Python API: it must pass `mypy --strict` (`tox -e types`). It is never run."""

from __future__ import annotations

import harness


def rewards(texts: list[str]) -> list[float | None]:
    verdicts: list[harness.Verdict] = [harness.grade(text, task="aime24", problem="2024-I-10") for text in texts]
    return [verdict.reward for verdict in verdicts]


def halves(text: str) -> bool:
    return harness.grade(text, reference="\\frac12", grader={"id": "math", "percent": "either"}).outcome == "correct"


def statuses(pattern: str) -> dict[str, str]:
    runs: harness.Runs = harness.load_runs(pattern)
    return {run.id: run.status for run in runs[1:]}


def best(first: harness.Run, folder: str) -> str:
    other: harness.Run = harness.evaluate(folder, ["countdown"], n=4, engine="hf", settings={"split": "validation"})
    trained: harness.Run = harness.train("countdown-flowrl", settings={"loop.steps": 3}, quiet=True)
    try:
        return str(harness.compare([first, trained], other, metric="pass@4"))
    except harness.HarnessError as error:
        return str(error)
