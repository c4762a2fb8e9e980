"""Options of datasets that a judge model grades."""

from __future__ import annotations

from dataclasses import dataclass

from harness.graders.judge import JudgeGrader
from harness.tasks._base.dataset import DatasetConfig


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
