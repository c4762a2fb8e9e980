"""GPQA: four-option questions in biology, physics and chemistry, written by experts, hard to look up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from harness.core.protocols import Split
from harness.core.seeds import derive
from harness.core.types import DataFile, DatasetCard, GoldenCompletion, Message, Problem, Sampling
from harness.data.files import read_records
from harness.graders.choice import ChoiceGrader
from harness.graders.references.choice import ChoiceReference
from harness.tasks._base.dataset import Dataset, DatasetConfig, Row, Source, splits
from harness.tasks._base.prompts import CHOICES, Prompt

HUB, REVISION = "Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd"
LETTERS = "ABCD"
COLUMNS = ["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))]


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, COLUMNS, optional=["High-level domain", "Subdomain"]):
        right, *wrong = (record[column].strip() for column in COLUMNS[2:])
        tags = {"subject": record.get("High-level domain", ""), "subdomain": record.get("Subdomain", "")}
        yield Row(record["Record ID"], record["Question"].strip(), "\n".join([right, *wrong]), tags, (right, wrong))


class Gpqa(Dataset[ChoiceReference]):
    """Ids are the source's record ids. The order of the four options depends on the question and `shuffle_seed`.

    The authors ask that the questions not be published in plain text where they could be crawled.
    """

    CARD = DatasetCard(
        title="GPQA",
        source=f"{HUB} gpqa_diamond.csv, gpqa_main.csv, gpqa_extended.csv at {REVISION[:12]} (gated)",
        licence="CC-BY-4.0",
        paper="Rein et al., arXiv 2311.12022",
        released="2023-11",
        sizes={"test": "198 (diamond), 448 (main) or 546 (extended) questions"},
        fingerprint="",
        notes="The source has the correct answer in its own column; the shuffle decides its letter. Diamond was "
        "checked against openai/simple-evals' copy; main and extended were not verified.",
        fields={"Question": "the question", "Correct Answer": "the right option", "Incorrect Answer 1": "and 2, 3"},
    )
    PROMPTS = CHOICES

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetConfig):
        prompt: str = "simple"
        subset: Literal["diamond", "main", "extended"] = "diamond"
        shuffle_seed: int = 0
        """Seed of the order of the options."""

    config: Config

    def __init__(self, config: Config) -> None:
        sampling = Sampling(max_tokens=8192, temperature=0.6, top_p=0.95)
        super().__init__(config, ChoiceGrader(ChoiceGrader.Config()), sampling)

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        name = f"gpqa_{self.config.subset}.csv"
        file = DataFile(name, HUB, revision=REVISION, mirrored_as=f"gpqa/{name}", is_gated=True)
        return splits(test=[Source((file,), rows)])

    def edition(self, split: Split) -> str:
        return f"gpqa-{self.config.subset}.{split}"

    def reference(self, row: Row) -> ChoiceReference:
        right, wrong = row.more
        options = Random(derive(self.config.shuffle_seed, "gpqa", row.id)).sample([right, *wrong], 4)
        return ChoiceReference(LETTERS[options.index(right)], tuple(options))

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:
        options = dict(zip(LETTERS, self.reference(row).options, strict=True))
        return prompt.messages(problem=row.problem, **options)

    def golden_completions(self, problem: Problem[ChoiceReference]) -> Sequence[GoldenCompletion]:
        right = problem.reference.letter
        other = LETTERS[(LETTERS.index(right) + 1) % 4]
        return [
            GoldenCompletion("the reference", f"So we have it.\n\nAnswer: {right}", "correct"),
            GoldenCompletion("the reference in a box", f"So the answer is $\\boxed{{{right}}}$.", "correct"),
            GoldenCompletion("another letter", f"So we have it.\n\nAnswer: {other}", "incorrect"),
            GoldenCompletion("an empty reply", "", "incorrect"),
        ]


TASK = Gpqa
