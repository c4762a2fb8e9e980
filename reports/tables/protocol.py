"""Protocol card of each task: how it was prompted, sampled and graded, and where runs differ."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import Table
from harness.reports.protocol_card import card
from harness.reports.run_facts import Cell, Labelled, labelled, task_ids
from harness.runs.folder import RunReader

DIFFERS = "differs"


class Protocol(TableBuilder[RunReader]):
    """One table per task. A setting that is equal in all runs is shown once, others are shown by run."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        named = labelled(runs, "eval")
        tasks = dict.fromkeys(task for run, _ in named for task in task_ids(run))
        return [_table(task, [(run, label) for run, label in named if task in task_ids(run)]) for task in tasks]


def _table(task: str, named: Sequence[Labelled]) -> Table:
    cards = [card(run, task) for run, _ in named]
    rows = [(name, [card[name] for card in cards]) for name in cards[0]]
    if all(_is_one(values) for _, values in rows):
        return Table(f"Protocol: {task}", ("setting", "all runs"), tuple((name, values[0]) for name, values in rows))
    cells = tuple(
        (name, values[0], *[""] * len(named)) if _is_one(values) else (name, DIFFERS, *values) for name, values in rows
    )
    return Table(f"Protocol: {task}", ("setting", "all runs", *(label for _, label in named)), cells)


def _is_one(values: Sequence[Cell]) -> bool:
    return all(value == values[0] for value in values)


TABLE = Protocol
