"""Problems by name: an id, or a number counted from 0 in the order in which a task gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import ConfigError, UnknownNameError
from harness.core.types import Problem


def find_problem(problems: Sequence[Problem[Any]], name: str) -> Problem[Any] | None:
    """The problem of that id, else that of that number; an id that is a number is an id."""
    of_that_id = next((problem for problem in problems if problem.id == name), None)
    if of_that_id is not None or not name.isdecimal() or int(name) >= len(problems):
        return of_that_id
    return problems[int(name)]


def only(problems: Mapping[str, Sequence[Problem[Any]]], names: Sequence[str]) -> dict[str, list[Problem[Any]]]:
    """The named problems of each task, in the order of the names. Every task must have one, every name a problem."""
    found = {task: {name: find_problem(every, name) for name in names} for task, every in problems.items()}
    for name in names:
        if all(of_task[name] is None for of_task in found.values()):
            raise UnknownNameError("problem", name, (problem.id for every in problems.values() for problem in every))
    chosen = {task: {p.id: p for p in of_task.values() if p is not None} for task, of_task in found.items()}
    for task, some in chosen.items():
        if not some:
            raise ConfigError(f"{task} has none of the problems {', '.join(names)}; leave that task out")
    return {task: list(some.values()) for task, some in chosen.items()}
