"""AMC 12 of 2023 without pictures, forty problems; or the eighty-three of 2022 and 2023."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.core.protocols import Split
from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths, MathsConfig, contest_id
from harness.tasks._base.prompts import maths_prompts

_FORTY = "HuggingFaceTB/math_tasks"
_ALL = "AI-MO/aimo-validation-amc"


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, ["answer", "url"], optional=["problem", "question"]):
        problem = record["problem"] if "problem" in record else record["question"]
        yield Row(contest_id(record["url"]), problem, str(float(record["answer"])))


class Amc23(Maths):
    """Ids are contest and number: `2023-12A-3`. The source rephrased problems so that each answer is one number."""

    CARD = DatasetCard(
        title="AMC 12, 2023 (40 problems), or 2022 and 2023 (83)",
        source=f"{_FORTY} data/amc23, byte for byte QwenLM/Qwen2.5-Math evaluation/data/amc23; {_ALL} for the 83",
        licence="not stated (40), Apache-2.0 (83); the problems are the MAA's",
        paper="",
        released="2023-11",
        sizes={"test": "40 problems, or 83 with edition 2022-2023"},
        fingerprint="",
        notes="Two sets go by this name: Qwen2.5-Math and FlowRL's README mean the 40, rllm, TTRL and Dr. GRPO the 83.",
        fields={"problem": "the statement in LaTeX", "answer": "a number, as a float", "url": "its AoPS wiki page"},
    )

    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MathsConfig):
        edition: Literal["2023", "2022-2023"] = "2023"
        """`2023` is the 40 problems that most papers mean, `2022-2023` the 83 of aimo-validation-amc."""

    config: Config

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        if self.config.edition == "2023":
            forty = DataFile("data/amc23/test.jsonl", _FORTY, mirrored_as="amc23/qwen25math_amc23_test.jsonl")
            return splits(test=[Source((forty,), rows)])
        published = DataFile("data/train-00000-of-00001.parquet", _ALL)
        mirrored = DataFile("amc83.jsonl", mirrored_as="amc23/prime_aimo-validation-amc.jsonl")
        return splits(test=[Source((published,), rows), Source((mirrored,), rows)])

    def edition(self, split: Split) -> str:
        return f"amc23.{split}" if self.config.edition == "2023" else f"amc23-2022-2023.{split}"


TASK = Amc23
