"""Rows of the MATH dataset in the two forms that it is published in; the answer is the last box of the solution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.data.files import read_records
from harness.tasks._base.dataset import Row, content_id
from harness.tasks._base.maths import last_boxed

HUB = "EleutherAI/hendrycks_math"
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
# Two solutions end in an empty box; their text gives the answer.
UNBOXED = {"79595ba3b4cf": "0", "81a7fe8e017d": "0"}


def rows(*paths: Path) -> Iterator[Row]:
    """Yield the rows of the seven files on the hub."""
    for path in paths:
        for record in read_records(path, ["problem", "level", "type", "solution"]):
            yield _row(record["problem"], record["solution"], record["level"], record["type"], path)


COLUMNS = ["prompt.list.element.content", "reward_model.ground_truth.solution", "level", "type"]


def verl_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file in verl's format."""
    for record in read_records(path, COLUMNS):
        problem, solution = record["prompt"][0]["content"], record["reward_model"]["ground_truth"]["solution"]
        yield _row(problem, solution, record["level"], record["type"], path)


def _row(problem: str, solution: str, level: str, subject: str, path: Path) -> Row:
    key = content_id(problem)
    boxed = last_boxed(solution, f"row {key} of {path}")
    answer = boxed if boxed else UNBOXED[key]
    return Row(key, problem, answer, {"subject": subject, "level": level.removeprefix("Level ")})
