"""SimpleQA: 4,326 short factual questions with one short answer each, graded by a judge model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.core.types import DataFile, DatasetCard, GoldenCompletion, Problem, Sampling
from harness.data.files import read_records
from harness.graders.references.text import TextReference
from harness.tasks._base.dataset import Dataset, Row, Source, content_id, splits
from harness.tasks._base.judged import JudgedConfig, judge_of
from harness.tasks._base.prompts import QUESTIONS

FILE = DataFile("simple_qa_test_set.csv", "basicv8vc/SimpleQA", mirrored_as="simpleqa/simple_qa_test_set.csv")


def rows(path: Path) -> Iterator[Row]:
    for record in read_records(path, ["problem", "answer"]):
        yield Row(content_id(record["problem"]), record["problem"], record["answer"])


class SimpleQa(Dataset[TextReference]):
    """Ids are hashes of the questions. Needs a judge model: see `harness show graders/judge`."""

    CARD = DatasetCard(
        title="SimpleQA",
        source="basicv8vc/SimpleQA (test); openai/simple-evals simple_qa_test_set.csv",
        licence="MIT",
        paper="Wei et al., arXiv 2411.04368",
        released="2024-10",
        sizes={"test": "4326 questions"},
        fingerprint="",
        notes="Another copy (sentient-agi/OpenDeepSearch) has the same rows under other column names.",
        fields={"problem": "the question", "answer": "the short answer", "metadata": "topic, type and sources"},
    )
    PROMPTS = QUESTIONS
    SOURCES = splits(test=[Source((FILE,), rows)])

    Config = JudgedConfig

    def __init__(self, config: JudgedConfig) -> None:
        super().__init__(config, judge_of(config), Sampling(max_tokens=1024, temperature=1.0))

    def reference(self, row: Row) -> TextReference:
        return TextReference(row.problem, row.answer)

    def golden_completions(self, problem: Problem[TextReference]) -> Sequence[GoldenCompletion]:
        return [
            GoldenCompletion("the reference", f"The answer is {problem.reference.text}.", "correct"),
            GoldenCompletion("an empty reply", "", "incorrect"),
        ]


TASK = SimpleQa
