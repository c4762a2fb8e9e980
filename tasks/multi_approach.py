"""Multi-approach: 467 problems of MATH's training split, each with at least three known approaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import DataError
from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.tasks._base.dataset import Row, Source, content_id, splits
from harness.tasks._base.maths import Maths
from harness.tasks._base.prompts import maths_prompts

REPOSITORY = "helmsman12/LLM_reasoning_diversity"
COMMIT = "472ff17c4447770f09bcaffaa8c1dbdcfdfc2151"
FILE = DataFile(
    "multi_approach/eval.jsonl",
    url=f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/data/eval.jsonl",
    mirrored_as="multi_approach/eval.jsonl",
)
FEWEST = 3


def rows(path: Path) -> Iterator[Row]:
    for number, record in enumerate(read_records(path, ["problem", "answer", "num_unique_approaches", "response"])):
        n_approaches = int(record["num_unique_approaches"])
        if n_approaches < FEWEST:
            raise DataError(f"row {number} of {path} has {n_approaches} approaches, and every problem has {FEWEST}")
        names = [approach["name"] for approach in record["response"]["approaches"]]
        tags = {"n_approaches": str(n_approaches), "approaches": "; ".join(names)}
        yield Row(content_id(record["problem"]), record["problem"], str(record["answer"]), tags)


class MultiApproach(Maths):
    """Ids are hashes of the problems. The tags `n_approaches` and `approaches` hold what is known of each problem.

    The number of approaches is a language model's count of plans that another model could carry out. Some answers are
    lists, such as `(1,1), (3,3)`.
    """

    CARD = DatasetCard(
        title="Problems with several approaches, evaluation split",
        source=f"github.com/{REPOSITORY}, data/eval.jsonl at {COMMIT[:7]}",
        licence="MIT",
        paper="Are We Measuring Strategy or Phrasing?, arXiv 2606.29985",
        sizes={"test": "467 problems"},
        fingerprint="",
        notes="From MATH's training split, so a model trained on MATH has seen them. The rows were never fetched here: "
        "no fingerprint is recorded, and their number is the paper's.",
        fields={
            "problem": "the statement in LaTeX",
            "answer": "the final answer",
            "response.approaches": "name, core idea and plan of each approach, by a language model",
            "num_unique_approaches": "how many of them a judge counts as different, at least 3",
        },
        several_approaches=1.0,
    )
    PROMPTS = maths_prompts(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    SOURCES = splits(test=[Source((FILE,), rows)])


TASK = MultiApproach
