"""MATH-500: five hundred problems of the MATH test set, selected in OpenAI's process supervision paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths
from harness.tasks._base.prompts import maths_prompts

FILE = DataFile(
    "test.jsonl",
    "HuggingFaceH4/MATH-500",
    revision="ff5b20257d8185524591543f8ff5993951537bb8",
    mirrored_as="math500/simplerl_math500_test.jsonl",
)


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, ["problem", "answer", "subject", "level", "unique_id"]):
        tags = {"subject": record["subject"], "level": str(record["level"])}
        yield Row(record["unique_id"].removesuffix(".json"), record["problem"], record["answer"], tags)


class Math500(Maths):
    """Ids are the paths of the original MATH files: `test/algebra/2584`."""

    CARD = DatasetCard(
        title="MATH-500",
        source="HuggingFaceH4/MATH-500 (test); openai/prm800k prm800k/math_splits/test.jsonl",
        licence="MIT",
        paper="Lightman et al., arXiv 2305.20050; Hendrycks et al., arXiv 2103.03874",
        released="2021-03",
        sizes={"test": "500 problems"},
        fingerprint="",
        several_approaches=0.33,  # of MATH, arXiv 2606.29985
        notes="PRIME's cleaned copy rewrites 85 answers; each should grade as equal to the original.",
        fields={
            "problem": "the statement in LaTeX",
            "answer": "in LaTeX, of every type",
            "subject": "one of seven",
            "level": "1 (easy) to 5",
        },
    )
    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    SOURCES = splits(test=[Source((FILE,), rows)])


TASK = Math500
