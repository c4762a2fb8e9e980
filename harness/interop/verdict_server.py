"""What exported tasks call: the verdict of our grader on a reply that another evaluator or trainer had."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from harness.core.config import parse_plugin
from harness.core.errors import DataError
from harness.core.protocols import Grader, Task
from harness.core.types import Completion, FinishReason, Problem, Tokens, Verdict
from harness.evaluation.select import problems_of
from harness.evaluation.setup import with_grader
from harness.interop.problems import turns


class Judge:
    """A task's problems and their grader, which is never asked more at once than it takes, from whatever thread."""

    def __init__(self, grader: Grader[Any], problems: Iterable[Problem[Any]]) -> None:
        self.problems = {problem.id: problem for problem in problems}
        self.n_at_once: int = getattr(grader, "n_at_once", 1)
        self._grader, self._turns = grader, threading.Semaphore(self.n_at_once)

    def verdict(self, problem: Problem[Any], text: str, finish_reason: FinishReason = "stop") -> Verdict:
        with self._turns:
            return self._grader.grade(problem, Completion(problem.id, 0, 0, text, finish_reason, Tokens(0, 0)))


def verdict(row: Mapping[str, Any], text: str, finish_reason: FinishReason = "stop") -> Verdict:
    """Of one reply to an exported problem. The reference is read from the data on this machine, not from the export."""
    found = judge(row["harness"])
    problem = found.problems.get(row["id"])
    if problem is None or turns(problem) != row["messages"]:
        raise DataError(f"the data of this task have changed since {row['id']!r} was exported; export it again")
    return found.verdict(problem, text, finish_reason)


def judge(origin: Mapping[str, Any]) -> Judge:
    """Of the problems of that origin, which are loaded once in a process."""
    with _LOADING:
        return _judge(json.dumps(dict(origin)))


_LOADING = threading.Lock()


@functools.cache
def _judge(origin: str) -> Judge:
    told = json.loads(origin)
    chosen = told.get("grader")
    grader = parse_plugin("graders", json.loads(chosen), "grader") if chosen is not None else None
    task: Task[Any] = with_grader(parse_plugin("tasks", json.loads(told["task"])).build(), grader)
    return Judge(task.grader, problems_of(task, told["split"], told["seed"], told["limit"]))
