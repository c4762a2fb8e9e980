"""MATH's training problems: 7,499, none of them in MATH-500."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.types import DataFile, DatasetCard, Erratum
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, content_id, splits, without_repeats
from harness.tasks._base.maths import TRAINING, Maths, last_boxed
from harness.tasks._base.prompts import maths_prompts

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


class Math(Maths):
    """Ids are hashes of the problems, since the source has none. The answer is the last box of the solution."""

    CARD = DatasetCard(
        title="MATH, training split",
        source=f"{HUB}, seven configs (train)",
        licence="MIT",
        paper="Hendrycks et al., arXiv 2103.03874",
        sizes={"train": "7499 problems"},
        fingerprint="",
        notes="7500 rows, one of which repeats another except for a space. None is in MATH-500: a comparison without "
        "signs finds two that differ from a test problem only in a sign. The split known as MATH 12k contains 4500 "
        "rows of the test set.",
        fields={"problem": "the statement in LaTeX", "solution": "with a box", "level": "1 to 5", "type": "of seven"},
        errata=tuple(
            Erratum(key, f"the box is empty; {answer} is what the solution says") for key, answer in UNBOXED.items()
        ),
    )
    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    SOURCES = splits(
        train=[
            Source(
                tuple(DataFile(f"{subject}/train-00000-of-00001.parquet", HUB) for subject in SUBJECTS),
                without_repeats(rows),
            ),
            Source(
                (DataFile("math-train.parquet", mirrored_as="math/ngrpo_math_train.parquet"),),
                without_repeats(verl_rows),
            ),
        ]
    )
    SAMPLING = TRAINING


TASK = Math
