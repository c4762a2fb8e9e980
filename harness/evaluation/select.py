"""Which problems of a task are asked: the first of a split, or chosen ones by id or number."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import ConfigError, UnknownNameError
from harness.core.protocols import Split, Task
from harness.core.types import Problem


def problems_of(task: Task[Any], split: Split, seed: int, limit: int | None) -> list[Problem[Any]]:
    """Return the first problems of a split, all of a finite one without a limit."""
    if split == "train" and limit is None:
        raise ConfigError("the train split may be endless: set a limit")
    problems = list(itertools.islice(task.problems(split, seed), limit))
    if not problems:
        raise ConfigError(f"the split {split!r} of this task is empty")
    n_different = len({problem.id for problem in problems})
    if n_different < len(problems):
        raise ConfigError(
            f"the split {split!r} of this task repeats itself: its first {len(problems)} problems are {n_different} "
            "different ones; lower limit"
        )
    return problems


def find_problem(problems: Sequence[Problem[Any]], name: str) -> Problem[Any] | None:
    """Return the problem with this id, else the one with this number, counted from 0 in the task's order.

    An id that is a number is an id.
    """
    with_id = next((problem for problem in problems if problem.id == name), None)
    if with_id is not None or not name.isdecimal() or int(name) >= len(problems):
        return with_id
    return problems[int(name)]


def select_problems(
    problems: Mapping[str, Sequence[Problem[Any]]], names: Sequence[str]
) -> dict[str, list[Problem[Any]]]:
    """Return the named problems of each task, in the order of the names.

    Every task must have at least one of them, and every name must be a problem of some task.
    """
    found = {task: {name: find_problem(every, name) for name in names} for task, every in problems.items()}
    for name in names:
        if all(of_task[name] is None for of_task in found.values()):
            raise UnknownNameError("problem", name, (problem.id for every in problems.values() for problem in every))
    chosen = {task: {p.id: p for p in of_task.values() if p is not None} for task, of_task in found.items()}
    for task, some in chosen.items():
        if not some:
            raise ConfigError(f"{task} has none of the problems {', '.join(names)}; leave that task out")
    return {task: list(some.values()) for task, some in chosen.items()}
