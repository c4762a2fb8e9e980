"""Demonstrations in the place of samples: a task's own solutions as completions, for supervised training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.core.errors import ConfigError
from harness.core.protocols import ModelSource, Task
from harness.core.types import Completion, Problem, Request, Tokens
from harness.models.chat import prompt_ids


class DemonstrationEngine:
    """Answers each request with the task's demonstration for the request's seed, ended as the model should end."""

    def __init__(self, task: Task[Any], tokenizer: Any, problems: Sequence[Problem[Any]]) -> None:
        demonstrate = getattr(task, "demonstrate", None)
        if demonstrate is None:
            raise ConfigError("this objective learns from demonstrations, and this task has none")
        self._demonstrate = demonstrate
        self._tokenizer = tokenizer
        self._problems = {problem.id: problem for problem in problems}

    def open(self, source: ModelSource) -> None:
        pass

    def close(self) -> None:
        pass

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            text = self._demonstrate(self._problems[request.problem_id], request.seed)
            prompt = prompt_ids(self._tokenizer, request.messages)
            ids = [*self._tokenizer(text, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id]
            tokens = Tokens(len(prompt), len(ids), tuple(prompt), tuple(ids))
            yield Completion(request.problem_id, request.index, request.seed, text, "stop", tokens)
