"""OlympiadBench, English text-only competition maths: 675 olympiad problems with checkable answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths
from harness.tasks._base.prompts import maths_prompts

HUB = "HuggingFaceTB/math_tasks"
FILE = DataFile("data/olympiadbench/test.jsonl", HUB, mirrored_as="olympiadbench/qwen25math_olympiadbench_test.jsonl")
COLUMNS = ["id", "subfield", "question", "final_answer", "is_multiple_answer", "unit", "answer_type", "error"]


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, COLUMNS, optional=["context"]):
        if len(record["final_answer"]) != 1:
            raise DataError(f"row {record['id']} of {path} has {len(record['final_answer'])} final answers, not one")
        context = record.get("context")
        question = f"{context}\n\n{record['question']}" if context else record["question"]
        tags = {"subject": record["subfield"], "answer_type": record["answer_type"]}
        yield Row(str(record["id"]), question, record["final_answer"][0], tags, _settings(record))


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "unit": record["unit"] if record["unit"] is not None else "",
        "is_multiple": bool(record["is_multiple_answer"]),
        "absolute_tolerance": float(record["error"]) if record["error"] else 0.0,
    }


class OlympiadBench(Maths):
    """Ids are the source's. One string may hold several answers, separated by commas."""

    CARD = DatasetCard(
        title="OlympiadBench, OE_TO_maths_en_COMP",
        source=f"{HUB} data/olympiadbench, byte for byte QwenLM/Qwen2.5-Math evaluation/data/olympiadbench; first "
        "published as Hothan/OlympiadBench, config OE_TO_maths_en_COMP",
        licence="MIT (OlympiadBench)",
        paper="He et al., arXiv 2402.14008",
        released="2024-02",
        sizes={"test": "675 problems"},
        fingerprint="",
        notes="The paper counts 674 in this config, every copy met has 675. 572 numerical, 64 expressions, 33 tuples, "
        "6 intervals; 94 ask for several answers, 8 have a unit, one a tolerance.",
        fields={
            "question": "the statement in LaTeX",
            "final_answer": "a list of one string",
            "is_multiple_answer": "whether the string holds several answers",
            "unit": "of the answer, where it has one",
            "answer_type": "Numerical, Expression, Tuple or Interval",
            "error": "an absolute tolerance, where there is one",
        },
    )
    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    SOURCES = splits(test=[Source((FILE,), rows)])


TASK = OlympiadBench
