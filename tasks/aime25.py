"""AIME 2025: thirty competition problems whose answers are integers from 0 to 999."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths
from harness.tasks._base.prompts import maths_prompts

PER_CONTEST = 15


def rows(path: Path) -> Iterator[Row]:
    for number, record in enumerate(read_records(path, ["problem", "answer"])):
        contest, problem = divmod(number, PER_CONTEST)
        yield Row(f"2025-{'I' * (contest + 1)}-{problem + 1}", record["problem"], str(int(record["answer"])))


class Aime25(Maths):
    """Both contests of 2025, in the order of the file. Ids are contest and number: `2025-II-5`."""

    CARD = DatasetCard(
        title="AIME 2025, I and II",
        source="math-ai/aime25 (test); the same file in inclusionAI/AReaL evaluation/data/aime25",
        licence="Apache-2.0 (AReaL); the problems are the MAA's",
        paper="",
        released="2025-02",
        sizes={"test": "30 problems"},
        fingerprint="",
        notes="Some copies have II before I, and 336^\\circ for II-5; some papers report I alone (15 problems).",
        fields={"problem": "the statement in LaTeX", "answer": "an integer"},
    )
    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    SOURCES = splits(
        test=[Source((DataFile("test.jsonl", "math-ai/aime25", mirrored_as="aime25/areal_aime25_test.jsonl"),), rows)]
    )


TASK = Aime25
