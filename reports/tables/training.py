"""Training runs: progress, final rewards and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.protocols import TableBuilder
from harness.core.types import Table
from harness.reports.run_config import run_config
from harness.reports.run_facts import Cell, labelled, unfinished
from harness.runs.folder import RunReader

LAST = 10
COLUMNS = (
    "run",
    "model",
    "task",
    "objective",
    "objective settings",
    "seed",
    "status",
    "steps done",
    "steps asked",
    "final reward",
    f"reward, last {LAST}",
    "final solve rate",
    f"solve rate, last {LAST}",
    "ungraded",
    "tokens",
    "wall seconds",
    "warnings",
)


class Training(TableBuilder[RunReader]):
    """One row per training run. Rewards and solve rates are those of the training samples, not of an evaluation."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        named = labelled(runs, "train")
        if not named:
            return []
        rows = tuple(_row(run, label) for run, label in named)
        note = (
            f"Rewards and solve rates are of the training samples: of the last step, and the mean of the last {LAST}."
        )
        warnings = [
            f"{label}, step {warning['step']}: {warning['text']}." for run, label in named for warning in run.warnings()
        ]
        return [Table("Training", COLUMNS, rows, (*unfinished(named), note, *warnings))]


def _row(run: RunReader, label: str) -> tuple[Cell, ...]:
    config, steps = run_config(run), run.steps()
    objective = config.objective
    return (
        label,
        config.model,
        config.tasks[0].id if config.tasks else None,
        objective.id if objective is not None else None,
        objective.options_text() if objective is not None else None,
        config.seed,
        run.status,
        len(steps),
        config.n_steps,
        _mean(steps[-1:], "reward"),
        _mean(steps[-LAST:], "reward"),
        _mean(steps[-1:], "solve_rate"),
        _mean(steps[-LAST:], "solve_rate"),
        _total(steps, "n_ungraded"),
        _total(steps, "n_tokens"),
        _total(steps, "wall_s"),
        len(run.warnings()),
    )


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    total = _total(steps, key)
    return None if total is None else total / len(steps)


def _total(steps: Sequence[Mapping[str, Any]], key: str) -> int | float | None:
    """Return the sum over the steps; None where a step lacks the value, since a partial sum would mislead."""
    values = [step[key] for step in steps if key in step]
    if not steps or len(values) < len(steps):
        return None
    return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)


TABLE = Training
