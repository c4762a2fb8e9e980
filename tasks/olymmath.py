"""OlymMATH: 200 olympiad problems in English and Chinese, half easy (about AIME) and half hard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from harness.core.protocols import Split
from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths, MathsConfig
from harness.tasks._base.prompts import MATHS, PLACEHOLDER, Prompt

GITHUB = "https://raw.githubusercontent.com/RUCAIBox/OlymMATH/main/data"
SHA256 = {
    "EN-EASY": "1d96903b3017abd80388005ca9ad68c8074540ad6f41ee7cd92ac79cbcf5bc0a",
    "EN-HARD": "f43b48f5569a5e6d3068e110f8ce6c5ec641ba4d6ba06d9a91a1c944526b7be4",
    "ZH-EASY": "133bf074b16702bfe938dfd1736373b0e093f460f232fb25f4c064ed948c52bc",
    "ZH-HARD": "f56746b739a20b3abf0c3daa3209cd2f48fc0663352bf7bdff34ae18b01fef58",
}
_SOURCE = "OlymMATH's own evaluation (RUCAIBox/OlymMATH local_tester.py)"


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, ["problem", "answer", "subject", "unique_id"]):
        yield Row(record["unique_id"], record["problem"], record["answer"], {"subject": record["subject"]})


class OlymMath(Maths):
    """Ids are the source's, such as `OlymMATH-HARD-0-EN`. The Chinese problems are the same 200."""

    CARD = DatasetCard(
        title="OlymMATH",
        source="RUCAIBox/OlymMATH data/*.jsonl (MIT); the hub has it as RUC-AIBOX/OlymMATH",
        licence="MIT",
        paper="Sun et al., arXiv 2503.21380",
        released="2025-03",
        sizes={"test": "100 problems for each language and level"},
        fingerprint="",
        notes="The authors draw at temperature 0.6 with top-p 0.95, 32,768 tokens, ten samples a problem.",
        fields={"problem": "the statement in LaTeX", "answer": "the final answer", "unique_id": "the id"},
    )
    PROMPTS: ClassVar[Mapping[str, Prompt]] = {
        **MATHS,
        "olymmath": Prompt(
            f"Please reason step by step, and put your final answer within \\boxed{{}}.\n\n{PLACEHOLDER}", _SOURCE
        ),
        "olymmath-zh": Prompt(f"请逐步推理，并在 \\boxed{{}} 内给出您的最终答案。\n\n{PLACEHOLDER}", _SOURCE),
    }

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MathsConfig):
        language: Literal["en", "zh"] = "en"
        level: Literal["easy", "hard"] = "hard"

    config: Config

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        name = f"{self.config.language}-{self.config.level}".upper()
        file = f"OlymMATH-{name}.jsonl"
        data = DataFile(file, url=f"{GITHUB}/{file}", sha256=SHA256[name], mirrored_as=f"olymmath/{file}")
        return splits(test=[Source((data,), rows)])

    def edition(self, split: Split) -> str:
        return f"olymmath-{self.config.language}-{self.config.level}.{split}"


TASK = OlymMath
