"""GSM8K: grade-school word problems with integer answers, 7,473 to train on and 1,319 to test."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness.core.data import read_records
from harness.core.errors import DataError
from harness.core.protocols import Task
from harness.core.types import Card, DataFile, Sampling
from harness.graders._math_reference import MathReference
from harness.tasks._dataset import Row, Source, splits
from harness.tasks._maths import Maths

HUB = "openai/gsm8k"


def rows(split: str, path: Path) -> Iterator[Row]:
    for number, record in enumerate(read_records(path, ["question", "answer"])):
        _, marker, answer = record["answer"].rpartition("####")
        if not marker:
            raise DataError(f"row {number} of {path} has no `####` before its answer; the file is not the one expected")
        yield Row(f"{split}-{number}", record["question"], answer.strip())


def _sources(split: str) -> tuple[Source, ...]:
    published = DataFile(f"main/{split}-00000-of-00001.parquet", HUB)
    mirrored = DataFile(f"gsm8k-{split}.jsonl", mirrored_as=f"gsm8k/openai_{split}.jsonl")
    return Source((published,), partial(rows, split)), Source((mirrored,), partial(rows, split))


class Gsm8k(Maths):
    """Ids are split and row: `test-12`. The answer is what follows `####`; thousands separators occur."""

    CARD = Card(
        title="GSM8K",
        source=f"{HUB} (config main); openai/grade-school-math grade_school_math/data",
        licence="MIT",
        paper="Cobbe et al., arXiv 2110.14168",
        sizes={"train": "7473 problems", "test": "1319 problems"},
        fingerprint="",
        fields={"question": "the problem", "answer": "a worked solution that ends in #### and the number"},
    )
    SOURCES = splits(train=_sources("train"), test=_sources("test"))
    SAMPLING = Sampling(max_tokens=1024, temperature=1.0)


TASK: type[Task[MathReference]] = Gsm8k
