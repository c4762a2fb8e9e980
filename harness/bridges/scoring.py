"""What exported tasks call: the verdict of a task's own grader on a reply that another evaluator had."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from harness.bridges.exported import split_of
from harness.core.config import parse_plugin
from harness.core.errors import DataError
from harness.core.protocols import Grader, Split, Task
from harness.core.types import Completion, FinishReason, Message, Problem, Tokens, Verdict
from harness.evaluate import problems_of


def verdict(row: Mapping[str, Any], text: str, finish_reason: FinishReason = "stop") -> Verdict:
    """Of one reply to an exported problem. The reference is read from the data on this machine, not from the export."""
    found = row["harness"]
    grader, problems = _task(found["task"], split_of(row), found["seed"], found["limit"])
    problem = problems.get(row["id"])
    if problem is None or problem.messages != tuple(Message(m["role"], m["content"]) for m in row["messages"]):
        raise DataError(f"the data of this task have changed since {row['id']!r} was exported; export it again")
    return grader.grade(problem, Completion(problem.id, 0, 0, text, finish_reason, Tokens(0, 0)))


@functools.cache
def _task(table: str, split: Split, seed: int, limit: int | None) -> tuple[Grader[Any], Mapping[str, Problem[Any]]]:
    task: Task[Any] = parse_plugin("tasks", json.loads(table)).build("tasks")
    return task.grader, {problem.id: problem for problem in problems_of(task, split, seed, limit)}
