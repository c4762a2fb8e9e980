"""Base class of HumanEval+ and MBPP+: file format, prompts, and reference solutions that must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from harness.core.types import GoldenCompletion, Message, Problem, Sampling
from harness.data.files import read_records
from harness.graders.code import CodeGrader
from harness.graders.code.reference import EvalPlusReference
from harness.tasks._base.dataset import Dataset, DatasetConfig, Row
from harness.tasks._base.mbpp_inputs import python_values
from harness.tasks._base.programs import EVALUATION, not_programs
from harness.tasks._base.prompts import FUNCTIONS, Prompt

COLUMNS = ["task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol"]
FIELDS = {
    "prompt": "the beginning of the program",
    "entry_point": "the name of the function",
    "canonical_solution": "a right continuation; the expected outputs are what it returns",
    "base_input": "the original inputs",
    "plus_input": "the added ones",
    "atol": "the absolute tolerance, for floats",
    "contract": "assertions about the inputs",
}


def rows_of(dataset: Literal["humaneval", "mbpp"]) -> Callable[[Path], Iterator[Row]]:
    def rows(path: Path) -> Iterator[Row]:
        for record in read_records(path, COLUMNS):
            # MBPP+ writes "no added inputs" as an empty object.
            inputs = (record["base_input"], record["plus_input"] if record["plus_input"] else [])
            base, plus = (_arguments(dataset, record["task_id"], some) for some in inputs)
            reference = EvalPlusReference(
                entry_point=record["entry_point"],
                prompt=record["prompt"],
                canonical_solution=record["canonical_solution"],
                base_inputs=base,
                plus_inputs=plus,
                absolute_tolerance=float(record["atol"]),
                dataset=dataset,
            )
            answer = f"{record['entry_point']} {record['canonical_solution']} {inputs} {record['atol']}"
            yield Row(record["task_id"], record["prompt"], answer, {}, reference)

    return rows


def _arguments(dataset: str, problem_id: str, inputs: Any) -> list[list[Any]]:
    return python_values(problem_id, inputs) if dataset == "mbpp" else inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPlusConfig(DatasetConfig):
    """Options of a dataset of functions."""

    prompt: str = "simple"


class EvalPlus(Dataset[EvalPlusReference]):
    """A dataset of functions to write, judged against a reference solution."""

    Config = EvalPlusConfig
    PROMPTS = FUNCTIONS
    SAMPLING: ClassVar[Sampling] = EVALUATION

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config, CodeGrader(CodeGrader.Config()), self.SAMPLING)

    def reference(self, row: Row) -> EvalPlusReference:
        reference: EvalPlusReference = row.more
        return reference

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:
        return prompt.messages(problem=row.problem.strip())

    def golden_completions(self, problem: Problem[EvalPlusReference]) -> Sequence[GoldenCompletion]:
        reference = problem.reference
        solution = reference.prompt + reference.canonical_solution
        return [
            GoldenCompletion("the reference solution", f"```python\n{solution}\n```", "correct"),
            *not_programs(),
            GoldenCompletion(
                "a function that returns nothing",
                f"```python\ndef {reference.entry_point}(*_, **__):\n    return None\n```",
                "incorrect",
            ),
        ]
