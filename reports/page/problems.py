"""Texts of the problems for the page, as far as the data are on this machine: a report downloads nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.config import parse_plugin
from harness.core.errors import HarnessError
from harness.core.protocols import Split, Task
from harness.core.types import Problem
from harness.data.files import is_local
from harness.reports.run_config import run_config
from harness.reports.run_facts import facts_of
from harness.runs.folder import RunReader

MOST_MADE = 20_000
"""Problems of a task without an end that are looked through."""


class Statements:
    """Texts and reference answers of a task's problems, in the order of the runs, or why there are none."""

    def __init__(self, task_id: str, runs: Sequence[RunReader]) -> None:
        self.texts: dict[str, tuple[str, str | None]] = {}
        self.why_none: str | None = None
        for run in _asking_differently(task_id, runs):
            try:
                reason = self._read(task_id, run)
            except HarnessError as error:
                reason = str(error)
            except Exception as error:  # a task of a user, or data of another version
                reason = f"{type(error).__name__}: {error}"
            self.why_none = None if self.texts else reason

    def _read(self, task_id: str, run: RunReader) -> str | None:
        config = run_config(run)
        chosen, split = config.task(task_id), config.split
        if chosen is None or split not in ("train", "test"):
            return "the config of the run does not name the task"
        task: Task[Any] = parse_plugin("tasks", chosen.settings()).build()
        if missing := [str(file) for file in task.files().get(_split(split), ()) if not is_local(file)]:
            return f"{missing[0]} is not on this machine (`harness fetch {task_id}` downloads it)"
        if (reason := _differs(task, _split(split), facts_of(run, task_id))) is not None:
            return reason
        found = task.problems(_split(split), config.problem_seed if config.problem_seed is not None else 0)
        limit = config.limit if config.limit is not None and not config.problems else MOST_MADE
        for problem in itertools.islice(found, limit):
            self.texts.setdefault(problem.id, _text(problem))
        return None

    def rows(self, names: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
        """Yield text and reference of each problem, None where they are not known."""
        return (self.texts.get(name, (None, None)) for name in names)


def _asking_differently(task_id: str, runs: Sequence[RunReader]) -> list[RunReader]:
    """Return the runs without those that ask the same problems as one before."""
    found: dict[str, RunReader] = {}
    for run in runs:
        config = run_config(run)
        settings = (config.task(task_id), config.split, config.problem_seed, config.limit, config.problems)
        found.setdefault(repr(settings), run)
    return list(found.values())


def _split(name: str) -> Split:
    return "train" if name == "train" else "test"


def _differs(task: Task[Any], split: Split, recorded: Mapping[str, Any]) -> str | None:
    """Return a line if the data on this machine are not those of the run."""
    fingerprint = recorded.get("fingerprint")
    loaded = task.loaded(split)
    if loaded is None or fingerprint is None or loaded.fingerprint == fingerprint:
        return None
    return f"the data on this machine ({loaded.fingerprint}) are not those of the run ({fingerprint})"


def _text(problem: Problem[Any]) -> tuple[str, str | None]:
    parts = [m.content if m.role == "user" else f"[{m.role}]\n{m.content}" for m in problem.messages]
    reference = problem.reference
    answer = str(reference) if isinstance(reference, (str, int, float)) else getattr(reference, "answer", None)
    return "\n\n".join(parts), answer if isinstance(answer, str) else None
