"""Facts about a run that several tables show: its label, model, tasks and sampling. Absent facts are None."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.core.types import Estimate
from harness.models.loading import CHECKPOINT_PREFIX
from harness.reports.find_trainer import CHECKPOINTS_FOLDER, find_trainer, train_run
from harness.reports.run_config import run_config, subtable
from harness.runs.folder import RunReader
from harness.runs.search import HELD_OUT_FOLDER

Cell = str | int | float | Estimate | None
Labelled = tuple[RunReader, str]
TASK_DEFAULT = "task's own"
UNKNOWN = "unknown"
"""Setting of completions that were imported from files which do not have it."""


def labelled(runs: Sequence[RunReader], kind: Literal["eval", "train"]) -> list[Labelled]:
    """Return the runs of one kind, in the order given, each with its label among all of them."""
    return [(run, label) for run, label in zip(runs, labels(runs), strict=True) if run.record.kind == kind]


def labels(runs: Sequence[RunReader]) -> list[str]:
    """Return a label for each run: that it was given, or its id, preceded by parent folders where ids are equal.

    A label that several runs were given is followed by their ids.
    """
    names = [_names(run) for run in runs]
    longest = max(map(len, names), default=0)
    columns = list(zip(*([*choice, *choice[-1:] * (longest - len(choice))] for choice in names), strict=True))
    counts = [Counter(column) for column in columns]
    return [
        next((name for name, count in zip(choice, counts, strict=False) if count[name] == 1), choice[-1])
        for choice in names
    ]


def _names(run: RunReader) -> list[str]:
    """Return names of a run, each with one more parent folder than the one before."""
    folder, own = _named_folder(run), _label(run)
    above = folder.resolve().parent.parts
    paths = [str(Path(*above[len(above) - depth :], own)) for depth in range(len(above) + 1)]
    return paths if run.label is None else [run.label, *(f"{run.label} ({path})" for path in paths)]


def _label(run: RunReader) -> str:
    trainer = _holder(run)
    return run.record.id if trainer is None else f"{trainer.record.id} {_step(run.record.id)}"


def _step(name: str) -> str:
    number = name.removeprefix(CHECKPOINT_PREFIX)
    return f"step {int(number)}" if number.isdigit() else name


def _named_folder(run: RunReader) -> Path:
    return run.folder.parent.parent if _holder(run) is not None else run.folder


def _holder(run: RunReader) -> RunReader | None:
    """Return the train run in whose folder this held-out evaluation lies."""
    return train_run(run.folder.parent.parent) if run.folder.parent.name == HELD_OUT_FOLDER else None


def trainer_of(run: RunReader) -> RunReader | None:
    """Return the train run that made the evaluated model, if its folder can be found."""
    path = run_config(run).model
    held = _holder(run)
    if held is not None or path is None:
        return held
    return find_trainer(run, path)


def model_of(run: RunReader) -> str | None:
    """Return the model as the config names it; a checkpoint is named by its train run and step."""
    path = run_config(run).model
    trainer = trainer_of(run)
    if path is None or trainer is None:
        return path
    model = Path(path)
    return f"{trainer.record.id} {_step(model.name)}" if model.parent.name == CHECKPOINTS_FOLDER else trainer.record.id


def task_ids(run: RunReader) -> list[str]:
    """Return the tasks of a run in the order of its config, then any that only its metrics name."""
    return list(dict.fromkeys([*(task.id for task in run_config(run).tasks), *run.estimates()]))


def facts_of(run: RunReader, name: str) -> Mapping[str, Any]:
    """Return the recorded facts about a task's data, or about the `model`."""
    return subtable(run.record.data, name)


def import_of(run: RunReader) -> Mapping[str, Any]:
    """Return the recorded facts about the files that the completions were imported from; empty if they were not."""
    return facts_of(run, "source")


def control_of(run: RunReader) -> Mapping[str, Any]:
    """Return the recorded description of a control; empty for other runs."""
    return facts_of(run, "control")


def sandbox_of(facts: Mapping[str, Any]) -> str | None:
    """Return the isolation level under which a task's programs ran."""
    level: str | None = subtable(facts, "judging").get("sandbox")
    return level


def sampling_setting(run: RunReader, task: str, key: str) -> str | int | float | None:
    """Return a sampling setting: the config's, else the task's recorded default, else the words for that default.

    Imported completions were not drawn with the task's default.
    """
    value = run_config(run).sampling_of(task, key)
    if value is None and import_of(run):
        return UNKNOWN
    if value is None:
        value = subtable(facts_of(run, task), "sampling").get(key)
    return TASK_DEFAULT if value is None else value


def unfinished(named: Sequence[Labelled]) -> list[str]:
    """Return a line for each run whose status is not done."""
    return [_unfinished_line(run, label) for run, label in named if run.status != "done"]


def _unfinished_line(run: RunReader, label: str) -> str:
    error = f" ({run.record.error.partition(chr(10))[0]})" if run.record.error is not None else ""
    if run.status == "running":
        return f"UNFINISHED: {label} is still running"
    meaning = "was killed" if run.record.status == "running" else f"ended as {run.record.status}"
    return f"UNFINISHED: {label} {meaning}{error}; run its command again to finish it"


MEAN_AT_ONE = re.compile(r"(pass|pass-all|distinct|maj|g-pass\(.*\))@1")
"""Estimates that are the mean share of right samples, as avg@k is: the others at k = 1."""


def without_repeats(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Leave out an estimate that is another one under a second name, such as pass@1 where there is avg@16."""
    kept = [estimate for estimate in estimates if estimate.name.startswith("avg@")]
    for estimate in estimates:
        if estimate not in kept and not (
            MEAN_AT_ONE.fullmatch(estimate.name) and any(_is_same_mean(estimate, other) for other in kept)
        ):
            kept.append(estimate)
    return [estimate for estimate in estimates if estimate in kept]


def _is_same_mean(estimate: Estimate, other: Estimate) -> bool:
    is_mean = other.name.startswith("avg@") or MEAN_AT_ONE.fullmatch(other.name) is not None
    return is_mean and other.n_problems == estimate.n_problems and math.isclose(other.value, estimate.value)
