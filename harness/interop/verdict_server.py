"""Verdicts of our graders on replies of another evaluator or trainer; exported tasks call this."""

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
from harness.evaluation.pipeline import verdict_of
from harness.evaluation.select import problems_of
from harness.evaluation.setup import with_grader
from harness.interop.problems import turns


class Judge:
    """A task's problems and their grader. Threads may share it: it bounds how many grade at the same time."""

    def __init__(self, grader: Grader[Any], problems: Iterable[Problem[Any]]) -> None:
        self.problems = {problem.id: problem for problem in problems}
        self.n_at_once = grader.n_at_once
        self._grader, self._slots = grader, threading.Semaphore(self.n_at_once)

    def verdict(self, problem: Problem[Any], text: str, finish_reason: FinishReason = "stop") -> Verdict:
        with self._slots:
            return verdict_of(self._grader, problem, Completion(problem.id, 0, 0, text, finish_reason, Tokens(0, 0)))


def verdict(row: Mapping[str, Any], text: str, finish_reason: FinishReason = "stop") -> Verdict:
    """Grade one reply to an exported problem, by the reference in the data on this machine, not in the export."""
    found = judge(row["harness"])
    problem = found.problems.get(row["id"])
    if problem is None or turns(problem) != row["messages"]:
        raise DataError(f"the data of this task changed after {row['id']!r} was exported; export it again")
    return found.verdict(problem, text, finish_reason)


def judge(origin: Mapping[str, Any]) -> Judge:
    """Return the judge of an origin (see `problems.origin_of`). Its problems are loaded once per process."""
    with _LOADING:
        return _judge(json.dumps(dict(origin)))


_LOADING = threading.Lock()


@functools.cache
def _judge(origin: str) -> Judge:
    fields = json.loads(origin)
    chosen = fields.get("grader")
    grader = parse_plugin("graders", json.loads(chosen), "grader") if chosen is not None else None
    task: Task[Any] = with_grader(parse_plugin("tasks", json.loads(fields["task"])).build(), grader)
    return Judge(task.grader, problems_of(task, fields["split"], fields["seed"], fields["limit"]))
