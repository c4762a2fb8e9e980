"""AIME 2024: thirty competition problems whose answers are integers from 0 to 999."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths, contest_id
from harness.tasks._base.prompts import maths_prompts


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, ["problem", "answer", "url"]):
        yield Row(contest_id(record["url"]), record["problem"], str(int(record["answer"])))


class Aime24(Maths):
    """Both contests of 2024. Ids are contest and number, such as `2024-I-3`."""

    CARD = DatasetCard(
        title="AIME 2024, I and II",
        source="HuggingFaceH4/aime_2024 (train); the same rows in QwenLM/Qwen2.5-Math evaluation/data/aime24",
        licence="not stated; the problems are the MAA's",
        paper="",
        released="2024-02",
        sizes={"test": "30 problems"},
        fingerprint="",
        notes="Some copies pad answers to three digits (025) or write floats; both are read as integers.",
        fields={"problem": "the statement in LaTeX", "answer": "an integer", "url": "its page in the AoPS wiki"},
    )
    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    SOURCES = splits(
        test=[
            Source((DataFile("data/train-00000-of-00001.parquet", "HuggingFaceH4/aime_2024"),), rows),
            Source((DataFile("aime24.jsonl", mirrored_as="aime24/qwen25math_aime24_test.jsonl"),), rows),
        ]
    )


TASK = Aime24
