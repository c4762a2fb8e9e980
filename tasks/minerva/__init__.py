"""Minerva's 272 undergraduate science problems from MIT OpenCourseWare; many answers are measured quantities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.core.protocols import Split
from harness.core.types import DataFile, DatasetCard, Erratum
from harness.data.files import read_records
from harness.graders.math.reference import SCIENTIFIC_TOLERANCE
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths, MathsConfig, last_boxed
from harness.tasks._base.prompts import maths_prompts
from harness.tasks.minerva.answers import RLLM_ANSWERS

HUB = "svc-huggingface/minerva-math"


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, ["problem", "solution", "type", "idx"]):
        answer = last_boxed(record["solution"], f"row {record['idx']} of {path}")
        more = {"relative_tolerance": SCIENTIFIC_TOLERANCE}
        yield Row(str(record["idx"]), record["problem"], answer, {"course": record["type"]}, more)


def rllm_rows(path: Path) -> Iterator[Row]:
    for row in rows(path):
        yield Row(row.id, row.problem, RLLM_ANSWERS.get(row.id, row.answer), row.tags, row.more)


class Minerva(Maths):
    """Ids are those of the source, 0 to 271.

    69 problems quote an earlier problem with its boxed solution, so a grader must not search the prompt and the reply
    together.
    """

    CARD = DatasetCard(
        title="Minerva OCW, 272 problems",
        source=f"{HUB}, the file of QwenLM/Qwen2.5-Math evaluation/data/minerva_math",
        licence="not stated; MIT OpenCourseWare is CC-BY-NC-SA",
        paper="Lewkowycz et al., arXiv 2206.14858",
        released="2022-06",
        sizes={"test": "272 problems"},
        fingerprint="",
        notes="The reference is the boxed answer of the solution. lm-eval's minerva_math is a different set: MATH with "
        "Minerva's prompt. The list of answers in DeepScaleR, rllm and FlowRL differs in 40 rows; in 33 of them it has "
        'the answer of the quoted problem. `answers = "rllm"` uses that list, to reproduce their numbers.',
        fields={"problem": "the statement in LaTeX", "solution": "with one box", "type": "the course", "idx": "the id"},
        errata=(
            Erratum("126", "the box has a plus where the transform gives t - sin(2t)/2"),
            Erratum("154", "half of 0.529 is 0.2645, boxed as 0.264; others have 0.265"),
            Erratum("155", "the box has 4.4677, the solution 4.4677e14"),
            Erratum("162", "the box has 1.22, without its power of ten"),
            Erratum("165", "the box has 0.822, without its power of ten"),
        ),
    )

    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MathsConfig):
        answers: Literal["boxed", "rllm"] = "boxed"
        """`rllm` uses the list of DeepScaleR, rllm and FlowRL, wrong in most of the 40 rows where it differs."""

    config: Config

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        file = DataFile("test.jsonl", HUB, mirrored_as="minerva_math/qwen25math_minerva_test.jsonl")
        return splits(test=[Source((file,), rows if self.config.answers == "boxed" else rllm_rows)])

    def edition(self, split: Split) -> str:
        return f"minerva.{split}" if self.config.answers == "boxed" else f"minerva-rllm.{split}"


TASK = Minerva
