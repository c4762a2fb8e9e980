"""MATH's training problems: 7,499, none of them in MATH-500."""

from __future__ import annotations

from harness.core.types import DataFile, DatasetCard, Erratum
from harness.tasks._base.dataset import Source, splits, without_repeats
from harness.tasks._base.math_rows import HUB, SUBJECTS, UNBOXED, rows, verl_rows
from harness.tasks._base.maths import TRAINING, Maths
from harness.tasks._base.prompts import maths_prompts


class Math(Maths):
    """Ids are hashes of the problems, since the source has none. The answer is the last box of the solution."""

    CARD = DatasetCard(
        title="MATH, training split",
        source=f"{HUB}, seven configs (train)",
        licence="MIT",
        paper="Hendrycks et al., arXiv 2103.03874",
        released="2021-03",
        sizes={"train": "7499 problems"},
        fingerprint="",
        notes="7500 rows, one of which repeats another except for a space. None is in MATH-500: a comparison without "
        "signs finds two that differ from a test problem only in a sign. The split known as MATH 12k contains 4500 "
        "rows of the test set.",
        several_approaches=0.33,  # arXiv 2606.29985
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
