"""Evaluations of trained models with those of their base model, among the runs of a report.

The record of a control names the evaluation that it is for. Without controls, the base model of a train run is the one
that its config names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.reports.run_config import run_config
from harness.reports.run_facts import Labelled, control_of, labelled, task_ids, trainer_of
from harness.reports.suites import protocol_of
from harness.runs.folder import RunReader

ORDER = ("base", "best-prompt", "base-entropy", "trained-entropy")
SELECTION = "selection"
FREE = ("samples a problem", "limit")
"""Settings in which a base may differ: the problems that both have are compared, at a k that both can have."""


@dataclass(frozen=True, slots=True)
class Controlled:
    """An evaluation with its controls, in a fixed order."""

    trained: Labelled
    controls: Sequence[tuple[Labelled, Mapping[str, Any]]]


def controlled(runs: Sequence[RunReader]) -> list[Controlled]:
    """Return the evaluations that controls among the runs are for. One whose folder is not among them is left out."""
    evaluations = labelled(runs, "eval")
    marked = [(one, mark) for one in evaluations if (mark := control_of(one[0])).get("kind") in ORDER]
    marked.sort(key=lambda item: ORDER.index(item[1]["kind"]))
    found = []
    for one in evaluations:
        mine = [(control, mark) for control, mark in marked if _is_for(mark, control[0], one[0])]
        if mine:
            found.append(Controlled(one, mine))
    return found


def _is_for(mark: Mapping[str, Any], control: RunReader, trained: RunReader) -> bool:
    is_it = not control_of(trained) and trained.record.config_digest == mark.get("of")
    return is_it and trained.folder.resolve().parent == control.folder.resolve().parent


def with_base(runs: Sequence[RunReader]) -> list[tuple[str, Labelled, Labelled]]:
    """Return each task of each trained model with the evaluation of its base model: task, base, trained."""
    evaluations = [one for one in labelled(runs, "eval") if control_of(one[0]).get("kind") in (None, "base")]
    marked = {one.trained[1]: control for one in controlled(runs) for control, mark in one.controls if _is_base(mark)}
    found = []
    for one in evaluations:
        base = marked.get(one[1])
        trainer = trainer_of(one[0])
        if base is None and trainer is not None and not control_of(one[0]):
            path = run_config(trainer).model
            base = next((other for other in evaluations if _is_like(other[0], one[0], path)), None)
        if base is not None:
            tasks = [task for task in task_ids(one[0]) if task in task_ids(base[0])]
            found += [(task, base, one) for task in tasks]
    return found


def _is_base(mark: Mapping[str, Any]) -> bool:
    return bool(mark["kind"] == "base")


def _is_like(base: RunReader, trained: RunReader, path: str | None) -> bool:
    """Return whether one is an evaluation of the model at `path`, under the protocol of the other on common tasks."""
    if run_config(base).model != path or path is None:
        return False
    shared = [task for task in task_ids(trained) if task in task_ids(base)]
    return bool(shared) and all(protocol_of(base, task, FREE) == protocol_of(trained, task, FREE) for task in shared)
