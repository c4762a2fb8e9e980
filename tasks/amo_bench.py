"""AMO-Bench: 50 new problems at the level of the IMO and above, with final answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.judged import RulesOrJudge

HUB = "meituan-longcat/AMO-Bench"
COLUMNS = ["question_id", "prompt", "answer", "answer_type"]


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, COLUMNS):
        tags = {"answer_type": record["answer_type"]}
        yield Row(str(record["question_id"]), record["prompt"], str(record["answer"]), tags)


class AmoBench(RulesOrJudge):
    """Ids are the source's. Answers of the type `description` are prose, and need a judge."""

    CARD = DatasetCard(
        title="AMO-Bench",
        source=f"{HUB} (test)",
        licence="MIT, as its repository says",
        paper="An et al., arXiv 2510.26768",
        released="2025-10-31",
        sizes={"test": "50 problems with a judge, fewer without"},
        fingerprint="",
        notes="Not verified by this project: the file is on the hub alone, and no copy was read. Its authors parse "
        "numbers, sets and formulas, and ask a judge five times about descriptions. Problem 35 was corrected on "
        "2025-11-05.",
        fields={"prompt": "the statement", "answer": "the answer", "answer_type": "number, set, variable, description"},
    )
    SOURCES = splits(test=[Source((DataFile("data/test-00000-of-00001.parquet", HUB),), rows)])

    def is_decidable(self, row: Row) -> bool:
        return row.tags["answer_type"] != "description"


TASK = AmoBench
