"""MATH's training problems: 7,499, none of them in MATH-500."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.protocols import Task
from harness.core.types import DataFile, DatasetCard, Erratum
from harness.data.files import read_records
from harness.graders.math.reference import MathReference
from harness.tasks._base.dataset import Row, Source, content_id, splits, without_repeats
from harness.tasks._base.maths import TRAINING, Maths, last_boxed

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
# Two solutions end in an empty box; what belongs in it follows from their text.
UNBOXED = {"79595ba3b4cf": "0", "81a7fe8e017d": "0"}


def rows(*paths: Path) -> Iterator[Row]:
    """From the seven files of the hub."""
    for path in paths:
        for record in read_records(path, ["problem", "level", "type", "solution"]):
            yield _row(record["problem"], record["solution"], record["level"], record["type"], path)


COLUMNS = ["prompt.list.element.content", "reward_model.ground_truth.solution", "level", "type"]


def verl_rows(path: Path) -> Iterator[Row]:
    """From one file in verl's form."""
    for record in read_records(path, COLUMNS):
        problem, solution = record["prompt"][0]["content"], record["reward_model"]["ground_truth"]["solution"]
        yield _row(problem, solution, record["level"], record["type"], path)


def _row(problem: str, solution: str, level: str, subject: str, path: Path) -> Row:
    key = content_id(problem)
    boxed = last_boxed(solution, f"row {key} of {path}")
    answer = boxed if boxed else UNBOXED[key]
    return Row(key, problem, answer, {"subject": subject, "level": level.removeprefix("Level ")})


class Math(Maths):
    """Ids are made of the problems' texts, since the source has none. Answers are what the solutions box."""

    CARD = DatasetCard(
        title="MATH, training split",
        source=f"{HUB}, seven configs (train)",
        licence="MIT",
        paper="Hendrycks et al., arXiv 2103.03874",
        sizes={"train": "7499 problems"},
        fingerprint="",
        notes="7500 rows, one of which repeats another but for a space. None is in MATH-500: a comparison blind to "
        "signs finds two that differ from one there in a sign alone. The split of 12,000 that goes by MATH 12k holds "
        "4500 rows of the test set.",
        fields={"problem": "the statement in LaTeX", "solution": "with a box", "level": "1 to 5", "type": "of seven"},
        errata=tuple(
            Erratum(key, f"the box is empty; {answer} is what the solution says") for key, answer in UNBOXED.items()
        ),
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


TASK: type[Task[MathReference]] = Math
