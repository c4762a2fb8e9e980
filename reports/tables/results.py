"""Estimates: one row for each run and task, with a column for each metric."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, Table
from harness.reports.power import NO_POWER, no_power
from harness.reports.run_config import run_config
from harness.reports.run_facts import (
    Cell,
    Labelled,
    labelled,
    model_of,
    sampling_setting,
    task_ids,
    trainer_of,
    unfinished,
    without_repeats,
)
from harness.runs.folder import RunReader

LEADING = ("run", "model", "objective", "task", "split", "n", "temperature")


@dataclass(frozen=True, slots=True)
class Row:
    leading: tuple[Cell, ...]
    estimates: Mapping[str, Estimate]


class Results(TableBuilder[RunReader]):
    """Evaluations in the order given. A column is one estimate by name; a run without it has an empty cell."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        evaluations = labelled(runs, "eval")
        rows = [row for run, label in evaluations for row in _rows(run, label)]
        if not rows:
            return []
        names = _column_order([e.name for row in rows for e in without_repeats(list(row.estimates.values()))])
        cells = tuple((*row.leading, *(row.estimates.get(name) for name in names)) for row in rows)
        notes = (*unfinished(evaluations), *_deviations(evaluations), *_notes(rows))
        return [Table("Results", (*LEADING, *names), cells, notes)]


def _rows(run: RunReader, label: str) -> list[Row]:
    config, trainer, estimates = run_config(run), trainer_of(run), run.estimates()
    objective = run_config(trainer).objective if trainer is not None else None
    return [
        Row(
            (
                label,
                model_of(run),
                objective.id if objective is not None else None,
                task,
                config.split,
                config.n,
                sampling_setting(run, task, "temperature"),
            ),
            {estimate.name: estimate for estimate in estimates.get(task, [])},
        )
        for task in task_ids(run)
    ]


def _deviations(evaluations: Sequence[Labelled]) -> list[str]:
    """Return a line for each run that differs from its preset."""
    configs = [(run_config(run), label) for run, label in evaluations]
    return [
        f"DEVIATES: {label} from preset {config.preset}: {'; '.join(config.deviations)}."
        for config, label in configs
        if config.preset is not None and config.deviations
    ]


def _column_order(names: Sequence[str]) -> list[str]:
    """Sort names by family (the part before @) in order of first appearance, then by k."""
    families = {family: place for place, family in enumerate(dict.fromkeys(name.split("@")[0] for name in names))}
    return sorted(dict.fromkeys(names), key=lambda name: (families[name.split("@")[0]], _k(name), name))


def _k(name: str) -> int:
    number = re.search(r"@(\d+)", name)
    return int(number[1]) if number is not None else 0


def _notes(rows: Sequence[Row]) -> list[str]:
    """Note the interval, the rows with ungraded completions, and the detectable differences."""
    most = [max((estimate.n_ungraded for estimate in row.estimates.values()), default=0) for row in rows]
    notes = ["[low, high] is a 95% interval over problems; the CSV file has the method of each."]
    notes += [
        f"UNGRADED: {n} completions of {row.leading[0]} on {row.leading[3]} could not be graded and are in no estimate"
        for row, n in zip(rows, most, strict=True)
        if n
    ]
    return [*notes, *_without_power(rows), *_detectable(rows)]


def _without_power(rows: Sequence[Row]) -> list[str]:
    return [
        f"{NO_POWER}: {row.leading[0]} on {row.leading[3]}: {e.name} is {reason}"
        for row in rows
        for e in row.estimates.values()
        if e.name.startswith("avg@") and (reason := no_power(e.value))
    ]


def _detectable(rows: Sequence[Row]) -> list[str]:
    """Note the difference that two such runs can detect, from the width of the interval of avg@k."""
    from harness.stats.intervals import LEVEL
    from harness.stats.paired_tests import detectable  # numpy

    two_sided = NormalDist().inv_cdf((1 + LEVEL) / 2)
    differences = [
        f"{row.leading[0]} on {row.leading[3]} {detectable(math.sqrt(2) * (e.high - e.low) / 2 / two_sided):.3f}"
        for row in rows
        for e in row.estimates.values()
        if e.name.startswith("avg@") and e.n_problems > 1
    ]
    if not differences:
        return []
    return [
        "Detectable difference of avg@k between two such runs (80% power at the 5% level, without pairing; `harness "
        f"compare` pairs the problems, which usually finds smaller ones): {'; '.join(differences)}."
    ]


TABLE = Results
