"""GSM8K: grade-school word problems with integer answers, 7,473 to train on and 1,319 to test."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from harness.core.errors import ConfigError, DataError
from harness.core.protocols import Split
from harness.core.types import DataFile, DatasetCard, LoadedData, Message, Sampling
from harness.data.files import read_records
from harness.graders.math.reference import MathReference, typed_reference
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths, MathsConfig
from harness.tasks._base.prompts import Prompt, maths_prompts

HUB = "openai/gsm8k"
EXAMPLES_SEED = 1234  # lm-eval's fewshot_seed


def rows(split: str, path: Path) -> Iterator[Row]:
    for number, record in enumerate(read_records(path, ["question", "answer"])):
        _, marker, answer = record["answer"].rpartition("####")
        if not marker:
            raise DataError(f"row {number} of {path} has no `####` before its answer; this is not the expected file")
        yield Row(f"{split}-{number}", record["question"], answer.strip(), more=record["answer"])


def _sources(split: str) -> tuple[Source, ...]:
    published = DataFile(f"main/{split}-00000-of-00001.parquet", HUB)
    mirrored = DataFile(f"gsm8k-{split}.jsonl", mirrored_as=f"gsm8k/openai_{split}.jsonl")
    return Source((published,), partial(rows, split)), Source((mirrored,), partial(rows, split))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gsm8kConfig(MathsConfig):
    """Options of GSM8K."""

    examples: int = 0
    """Number of few-shot examples: training problems with their solutions, as earlier turns of the conversation."""

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise ValueError("examples must not be negative (0 shows none)")


class Gsm8k(Maths):
    """Ids are split and row: `test-12`. The answer is what follows `####`; thousands separators occur."""

    Config = Gsm8kConfig
    CARD = DatasetCard(
        title="GSM8K",
        source=f"{HUB} (config main); openai/grade-school-math grade_school_math/data",
        licence="MIT",
        paper="Cobbe et al., arXiv 2110.14168",
        released="2021-10",
        sizes={"train": "7473 problems", "test": "1319 problems"},
        fingerprint="",
        several_approaches=0.007,  # arXiv 2606.29985
        fields={"question": "the problem", "answer": "a worked solution that ends in #### and the number"},
    )
    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    SOURCES = splits(train=_sources("train"), test=_sources("test"))
    SAMPLING = Sampling(max_tokens=1024, temperature=1.0)

    config: Gsm8kConfig

    def reference(self, row: Row) -> MathReference:
        return typed_reference(row.answer)

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:
        *system, question = prompt.messages(problem=row.problem)
        shown = self._few_shot.get(row.id) if self.config.examples else ()
        if shown is None:
            raise ConfigError("few-shot examples are for the test split only; set the task's examples to 0")
        turns = [
            turn
            for example in shown
            for turn in (prompt.messages(problem=example.problem)[-1], Message("assistant", example.more))
        ]
        return (*system, *turns, question)

    def loaded(self, split: Split) -> LoadedData:
        """Return the facts of the split; with few-shot examples, also of the training rows that they are drawn from."""
        found = super().loaded(split)
        if not self.config.examples or split == "train":
            return found
        pool = super().loaded("train")
        return replace(
            found,
            fingerprint=f"{found.fingerprint}, examples {pool.fingerprint}",
            expected=f"{found.expected}, examples {pool.expected}" if found.expected and pool.expected else "",
            differing=(*found.differing, *pool.differing),
            files=(*found.files, *pool.files),
        )

    @functools.cached_property
    def _few_shot(self) -> Mapping[str, Sequence[Row]]:
        """Draw examples as lm-eval does: one generator runs through the test problems in file order."""
        pool, asked, draw = self._read("train")[0], self._read("test")[0], Random(EXAMPLES_SEED)
        if self.config.examples > len(pool):
            raise ConfigError(f"gsm8k has {len(pool)} training problems; lower examples")
        return {row.id: draw.sample(pool, self.config.examples) for row in asked}


TASK = Gsm8k
