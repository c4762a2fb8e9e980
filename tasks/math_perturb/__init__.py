"""MATH-Perturb: 279 problems of MATH, each with a simple and a hard perturbation, to measure memorisation."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.core.errors import DataError
from harness.core.protocols import Split
from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base import math_rows
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.maths import Maths, MathsConfig

GITHUB = "https://raw.githubusercontent.com/Kaffaljidhmah2/MATH-Perturb/main/math_perturb"
FILES = {
    "simple": DataFile(
        "math_perturb_simple.jsonl",
        url=f"{GITHUB}/math_perturb_simple.jsonl",
        sha256="2130821d4235dc1f5d962bee7f84a096651bf98fcb17b6dcfd3d0a48875ba5bb",
        mirrored_as="math_perturb/math_perturb_simple.jsonl",
    ),
    "hard": DataFile(
        "math_perturb_hard.jsonl",
        url=f"{GITHUB}/math_perturb_hard.jsonl",
        sha256="418ca51e02f3b639a919dda72b5201ce35ac6c6d7d31c3231735beb4ea012dd7",
        mirrored_as="math_perturb/math_perturb_hard.jsonl",
    ),
}
COLUMNS = ["problem_id", "problem", "answer", "level", "type", "original_split"]
ORIGINALS = Path(__file__).with_name("originals.tsv")
"""The id of each pair and that of its original in MATH, a hash of the text (`tools/match_math_perturb.py`)."""


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, COLUMNS):
        tags = {"subject": record["type"], "original_split": record["original_split"]}
        yield Row(str(record["problem_id"]), record["problem"], str(record["answer"]), tags)


def every_original(*paths: Path) -> Iterator[tuple[Row, str]]:
    """Yield every problem of MATH with the name of its split."""
    for path in paths:
        split = "train" if "train" in path.name else "test"
        is_verl = path.name.endswith("math_train.parquet")
        for row in math_rows.verl_rows(path) if is_verl else math_rows.rows(path):
            yield row, split


def original_rows(*paths: Path) -> Iterator[Row]:
    """Yield the originals in the order of the pairs, under the pairs' ids."""
    known = {row.id: (row, split) for row, split in every_original(*paths)}
    for key, original in _pairs().items():
        if original not in known:
            raise DataError(f"{paths[0]} lacks the problem of MATH that pair {key} was made from ({original})")
        row, split = known[original]
        yield Row(key, row.problem, row.answer, {"subject": row.tags["subject"], "original_split": split})


@functools.cache
def _pairs() -> Mapping[str, str]:
    lines = ORIGINALS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


_ON_THE_HUB = tuple(
    DataFile(f"{subject}/{split}-00000-of-00001.parquet", math_rows.HUB)
    for split in ("test", "train")
    for subject in math_rows.SUBJECTS
)
_MIRRORED = tuple(
    DataFile(f"math-{split}.parquet", mirrored_as=f"math/ngrpo_math_{split}.parquet") for split in ("test", "train")
)


class MathPerturb(Maths):
    """Ids are the pair's number, the same in all three variants, so that they can be compared problem by problem.

    A simple perturbation keeps the way to the answer; a hard one needs another. `harness report` prints the drop from
    the originals where a model has runs of both.
    """

    CARD = DatasetCard(
        title="MATH-Perturb",
        source="Kaffaljidhmah2/MATH-Perturb math_perturb/; the originals are EleutherAI/hendrycks_math",
        licence="Apache-2.0; MATH is MIT",
        paper="Huang et al., arXiv 2502.06453",
        released="2025-02",
        sizes={"test": "279 problems"},
        fingerprint="",
        notes="The files name an original by split and subject alone. This project matched the texts; the share of "
        "common runs is at least 0.38 for every pair but one (0.16, read by hand). 164 of the originals are from "
        "the training split of MATH. One answer of `hard` is a name, one `NaN`, one of `simple` is `not exist`.",
        fields={"problem": "the statement in LaTeX", "answer": "the final answer", "original_split": "train or test"},
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MathsConfig):
        variant: Literal["hard", "simple", "original"] = "hard"
        """`original` asks the 279 problems of MATH that the others were made from."""

    config: Config

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        if self.config.variant == "original":
            return splits(test=[Source(_ON_THE_HUB, original_rows), Source(_MIRRORED, original_rows)])
        return splits(test=[Source((FILES[self.config.variant],), rows)])

    def edition(self, split: Split) -> str:
        return f"math_perturb-{self.config.variant}.{split}"


TASK = MathPerturb
