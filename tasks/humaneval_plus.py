"""HumanEval+: 164 functions to complete, with about 750 added tests each."""

from __future__ import annotations

from harness.core.types import DataFile, DatasetCard
from harness.tasks._base.dataset import Source, splits
from harness.tasks._base.evalplus import FIELDS, EvalPlus, rows_of

FILE = DataFile(
    "HumanEvalPlus-v0.1.10.jsonl.gz",
    url="https://github.com/evalplus/humanevalplus_release/releases/download/v0.1.10/HumanEvalPlus.jsonl.gz",
    mirrored_as="humanevalplus/HumanEvalPlus.jsonl.gz",
)


class HumanEvalPlus(EvalPlus):
    """HumanEval+. Ids are the source's."""

    CARD = DatasetCard(
        title="HumanEval+ v0.1.10",
        source="evalplus/humanevalplus_release, HumanEvalPlus.jsonl.gz",
        licence="Apache-2.0",
        paper="Liu et al., arXiv 2305.01210",
        released="2021-07",
        sizes={"test": "164 problems"},
        fingerprint="",
        notes="1570 base and 122,683 added inputs. The git tag v0.1.10 of the source points at the data of v0.1.9. In "
        "the hub's copy (evalplus/humanevalplus) the tests of HumanEval/32 fail the reference solution, and evalplus "
        "0.3.1 marks every solution of it wrong; here expected outputs come from the reference solution itself.",
        fields=FIELDS,
    )
    SOURCES = splits(test=[Source((FILE,), rows_of("humaneval"))])


TASK = HumanEvalPlus
