"""Humanity's Last Exam without its pictures: expert questions, short answers or options, graded by a judge model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.core.types import DataFile, DatasetCard, GoldenCompletion, Problem, Sampling
from harness.data.files import read_records
from harness.graders.references.text import TextReference
from harness.tasks._base.dataset import Dataset, Row, Source, splits
from harness.tasks._base.judged import JudgedConfig, judge_of
from harness.tasks._base.prompts import EXACT_ANSWERS

FILE = DataFile("data/test-00000-of-00001.parquet", "cais/hle", is_gated=True)
COLUMNS = ["id", "question", "answer", "image", "answer_type", "category"]


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, COLUMNS):
        if not record["image"]:
            tags = {"subject": record["category"], "answer_type": record["answer_type"]}
            yield Row(record["id"], record["question"], record["answer"], tags)


class Hle(Dataset[TextReference]):
    """Ids are the source's. Needs a judge model: see `harness show graders/judge`."""

    CARD = DatasetCard(
        title="Humanity's Last Exam, text only",
        source="cais/hle (test; gated)",
        licence="MIT; its authors ask that it not be redistributed",
        paper="Phan et al., arXiv 2501.14249",
        released="2025-01",
        sizes={"test": "the questions without a picture, of 2,500 as its authors say"},
        fingerprint="",
        notes="Not verified by this project: the data are gated and no copy was read.",
        fields={"question": "the question", "answer": "short, or a letter", "image": "a picture, empty for most"},
    )
    PROMPTS = EXACT_ANSWERS
    SOURCES = splits(test=[Source((FILE,), rows)])

    Config = JudgedConfig

    def __init__(self, config: JudgedConfig) -> None:
        super().__init__(config, judge_of(config), Sampling(max_tokens=8192, temperature=0.6))

    def reference(self, row: Row) -> TextReference:
        return TextReference(row.problem, row.answer)

    def golden_completions(self, problem: Problem[TextReference]) -> Sequence[GoldenCompletion]:
        return [
            GoldenCompletion("the reference", f"Explanation: known.\nAnswer: {problem.reference.text}", "correct"),
            GoldenCompletion("an empty reply", "", "incorrect"),
        ]


TASK = Hle
