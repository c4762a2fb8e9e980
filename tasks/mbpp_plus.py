"""MBPP+: 378 short functions, each specified by a sentence, with added tests."""

from __future__ import annotations

from harness.core.types import DataFile, DatasetCard
from harness.tasks._base.dataset import Source, splits
from harness.tasks._base.evalplus import FIELDS, EvalPlus, rows_of

FILE = DataFile(
    "MbppPlus-v0.2.0.jsonl.gz",
    url="https://github.com/evalplus/mbppplus_release/releases/download/v0.2.0/MbppPlus.jsonl.gz",
    mirrored_as="mbppplus/MbppPlus.jsonl.gz",
)


class MbppPlus(EvalPlus):
    """MBPP+. Ids are the source's."""

    CARD = DatasetCard(
        title="MBPP+ v0.2.0",
        source="evalplus/mbppplus_release, MbppPlus.jsonl.gz",
        licence="Apache-2.0",
        paper="Liu et al., arXiv 2305.01210",
        released="2021-08",
        sizes={"test": "378 problems"},
        fingerprint="",
        notes="The sanitised MBPP of 399 less 21 problems that evalplus found to be broken.",
        fields=FIELDS,
    )
    SOURCES = splits(test=[Source((FILE,), rows_of("mbpp"))])


TASK = MbppPlus
