"""Datasets that a judge model grades, wholly or where rules can't decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.types import GoldenCompletion, Problem
from harness.graders.judge import JudgeGrader
from harness.graders.math import MathGrader
from harness.graders.math.reference import MathReference, typed_reference
from harness.graders.references.text import TextReference
from harness.tasks._base.dataset import Dataset, DatasetConfig, Row
from harness.tasks._base.golden_answers import golden_completions
from harness.tasks._base.maths import EVALUATION
from harness.tasks._base.prompts import MATHS


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedConfig(DatasetConfig):
    """Options of a dataset that needs a judge model."""

    prompt: str = "simple"
    judge_url: str = ""
    """The judge's OpenAI-compatible server, such as http://localhost:8000/v1. For another engine, set `[grader]`."""
    judge_model: str = ""
    judge_key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the server wants one."""


def judge_of(config: JudgedConfig) -> JudgeGrader:
    """Return the judge, which grades nothing until both its server and its model are named."""
    return JudgeGrader(
        JudgeGrader.Config(base_url=config.judge_url, model=config.judge_model, key_variable=config.judge_key_variable)
    )


class RulesOrJudge(Dataset[Any]):
    """A maths dataset with some answers in prose. Without a judge, the problems with such answers are left out."""

    PROMPTS = MATHS

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(JudgedConfig):
        prompt: str = "flowrl"
        graded_by: Literal["rules", "judge"] = "rules"
        """`rules`: the maths grader, on the answers that it can decide. `judge`: a judge model, on all of them."""

    config: Config

    def __init__(self, config: Config) -> None:
        grader = judge_of(config) if config.graded_by == "judge" else MathGrader(MathGrader.Config())
        super().__init__(config, grader, EVALUATION)

    def is_decidable(self, row: Row) -> bool:
        """Return whether rules can compare a reply with the answer of this row."""
        raise NotImplementedError

    def reference(self, row: Row) -> MathReference | TextReference:
        if self.config.graded_by == "judge":
            return TextReference(row.problem, row.answer)
        return typed_reference(row.answer)

    def golden_completions(self, problem: Problem[Any]) -> Sequence[GoldenCompletion]:
        if isinstance(problem.reference, MathReference):
            return golden_completions(problem.reference)
        right = f"The answer is {problem.reference.text}."
        return [
            GoldenCompletion("the reference", right, "correct"),
            GoldenCompletion("an empty reply", "", "incorrect"),
        ]

    def _selected(self, rows: list[Row]) -> list[Row]:
        every = self.config.graded_by == "judge"
        return super()._selected([row for row in rows if every or self.is_decidable(row)])
