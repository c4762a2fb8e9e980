"""The file `diversity.json` of a run folder: values of diversity measures by problem, and how they were obtained.

Values are stored and not estimates, so that a report pairs the problems of the runs that it shows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import RunFolderError
from harness.runs.jsonl import write_whole

FILE = "diversity.json"
FORMAT = 1

Values = Mapping[str, Mapping[str, tuple[float, ...]]]
"""By estimate and problem: one value for each pass of a judge, a single one where nothing is judged."""


@dataclass(frozen=True, slots=True)
class TaskDiversity:
    """Measures of one task in one run."""

    samples: int | None
    """Samples of each problem that the values are of."""
    correct: int | None
    """Right samples of each problem that the values of right samples are of."""
    with_runs: tuple[str, ...]
    """The runs that the two numbers were chosen for."""
    values: Values
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By kind (`encoder`, `judge`, `flowrl-legacy`): which model it was, and how far it can be believed."""

    def added_to(self, former: TaskDiversity | None) -> TaskDiversity:
        """Return both together if they are of the same numbers of samples, else this one."""
        if former is None or (former.samples, former.correct) != (self.samples, self.correct):
            return self
        values, cards = {**former.values, **self.values}, {**former.cards, **self.cards}
        return dataclasses.replace(self, values=values, cards=cards)


def read_diversity(folder: Path) -> dict[str, TaskDiversity]:
    """Return the measures by task; empty for a run without any."""
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise RunFolderError(f"{path} has format {found['format']}, this version reads {FORMAT}")
        return {task: _from_row(row) for task, row in found["tasks"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{path} can't be read: {error!r}; remove it and run `harness diversity` again") from None


def write_diversity(folder: Path, tasks: Mapping[str, TaskDiversity]) -> None:
    rows = {task: dataclasses.asdict(one) for task, one in tasks.items()}
    write_whole(folder / FILE, json.dumps({"format": FORMAT, "tasks": rows}, indent=1) + "\n")


def _from_row(row: dict[str, Any]) -> TaskDiversity:
    values = {
        name: {problem: tuple(found) for problem, found in problems.items()}
        for name, problems in row.pop("values").items()
    }
    return TaskDiversity(**{**row, "with_runs": tuple(row["with_runs"])}, values=values)
