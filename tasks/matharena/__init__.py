"""The final-answer competitions of MathArena: matharena:hmmt_feb_2026, matharena:brumo_2025, matharena:apex_2025 ..."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.core.errors import ConfigError, UnknownNameError
from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths, MathsConfig
from harness.tasks._base.prompts import MATHS, PLACEHOLDER, Prompt

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""MathArena's instruction where a set has none of its own."""


@functools.cache
def sets() -> Mapping[str, Mapping[str, Any]]:
    """Return what `sets.toml` has on each competition by name."""
    return tomllib.loads(Path(__file__).with_name("sets.toml").read_text(encoding="utf-8"))


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, ["problem_idx", "problem", "answer"]):
        yield Row(str(record["problem_idx"]), record["problem"], str(record["answer"]))


class MathArena(Maths):
    """One competition. Ids are the source's numbers. Not verified by this project: the files are on the hub alone."""

    CARD = DatasetCard(
        title="MathArena",
        source="MathArena/NAME (train); one task for each competition",
        licence="CC-BY-NC-SA-4.0, as the data sets' pages say",
        paper="Balunović et al., arXiv 2505.23281",
        sizes={"test": "12 to 53 problems"},
        fingerprint="",
    )
    SOURCES = splits()

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MathsConfig):
        prompt: str = "matharena"

    NAME: ClassVar[str] = ""

    def __init__(self, config: Config) -> None:
        if not self.NAME:
            raise ConfigError(f"matharena is a family of tasks; name one of matharena:{', matharena:'.join(sets())}")
        super().__init__(config)

    @classmethod
    @functools.cache
    def member(cls, name: str) -> type[MathArena]:
        """Return the task of one competition."""
        if name not in sets():
            raise UnknownNameError("competition of MathArena", name, sets())
        facts = sets()[name]
        n_problems = f"{facts['problems']} problems" if "problems" in facts else "not stated"
        card = DatasetCard(
            title=facts["title"],
            source=f"MathArena/{name} (train)",
            licence=cls.CARD.licence,
            paper=cls.CARD.paper,
            sizes={"test": n_problems},
            fingerprint="",
            notes="Not verified by this project.",
            released=facts.get("date", ""),
            fields={"problem_idx": "the number", "problem": "the statement", "answer": "the final answer"},
        )
        prompt = Prompt(f"{facts.get('instruction', INSTRUCTION)}\n\n{PLACEHOLDER}", "eth-sri/matharena configs")
        file = DataFile("data/train-00000-of-00001.parquet", f"MathArena/{name}")
        members = {
            "__module__": cls.__module__,
            "NAME": name,
            "CARD": card,
            "PROMPTS": {"matharena": prompt, **MATHS},
            "SOURCES": splits(test=[Source((file,), rows)]),
        }
        return type("MathArena", (cls,), members)


TASK = MathArena
