"""What tables ask of a run: its label, its tasks, one setting, who trained its model. Absent things are None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.core.types import Estimate
from harness.models.loading import CHECKPOINT_PREFIX
from harness.runs.folder import RunReader

Cell = str | int | float | Estimate | None
Labelled = tuple[RunReader, str]
HELD_OUT_FOLDER = "evals"
CHECKPOINTS_FOLDER = "checkpoints"
TASK_DEFAULT = "task's own"


def labelled(runs: Sequence[RunReader], kind: Literal["eval", "train"]) -> list[Labelled]:
    """The runs of one kind, in the order given, each with its label among all of them."""
    return [(run, label) for run, label in zip(runs, labels(runs), strict=True) if run.record.kind == kind]


def labels(runs: Sequence[RunReader]) -> list[str]:
    """One label a run, different for different folders: its id, with parents before it where ids are the same."""
    short = [_label(run) for run in runs]
    longer = [f"{_named_folder(run).parent.name}/{label}" for run, label in zip(runs, short, strict=True)]
    full = [str(run.folder) for run in runs]
    return [_first_unique(choice, (short, longer, full)) for choice in zip(short, longer, full, strict=True)]


def _first_unique(choice: tuple[str, ...], columns: Sequence[Sequence[str]]) -> str:
    counts = [Counter(column) for column in columns]
    return next((label for label, count in zip(choice, counts, strict=True) if count[label] == 1), choice[-1])


def _label(run: RunReader) -> str:
    trainer = _holder(run)
    return run.record.id if trainer is None else f"{trainer.record.id} {_step(run.record.id)}"


def _step(name: str) -> str:
    number = name.removeprefix(CHECKPOINT_PREFIX)
    return f"step {int(number)}" if number.isdigit() else name


def _named_folder(run: RunReader) -> Path:
    return run.folder.parent.parent if _holder(run) is not None else run.folder


def _holder(run: RunReader) -> RunReader | None:
    """The train run in whose folder this held-out evaluation lies."""
    return _train_run(run.folder.parent.parent) if run.folder.parent.name == HELD_OUT_FOLDER else None


def trainer_of(run: RunReader) -> RunReader | None:
    """The train run that made the evaluated model, where its folder is still to be found."""
    path = setting(run.config(), "model", "path")
    held = _holder(run)
    if held is not None or path is None:
        return held
    model = Path(path)
    return _train_run(model.parent.parent if model.parent.name == CHECKPOINTS_FOLDER else model)


def _train_run(folder: Path) -> RunReader | None:
    if not (folder / "run.json").is_file():
        return None
    view = RunReader.read(folder)
    return view if view.record.kind == "train" else None


def model_of(run: RunReader) -> str | None:
    """The model as its config names it; a checkpoint of a train run by that run and its step."""
    path: str | None = setting(run.config(), "model", "path")
    trainer = trainer_of(run)
    if path is None or trainer is None:
        return path
    model = Path(path)
    return f"{trainer.record.id} {_step(model.name)}" if model.parent.name == CHECKPOINTS_FOLDER else trainer.record.id


def setting(config: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of keys, or None where any of them is absent."""
    value: Any = config
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def task_ids(run: RunReader) -> list[str]:
    """The tasks of a run in the order of its config, then any that only its metrics know."""
    config = run.config()
    given = setting(config, "tasks") if run.record.kind == "eval" else [setting(config, "task")]
    ids = [name for table in (given if given is not None else []) if (name := plugin_id(table)) is not None]
    return list(dict.fromkeys([*ids, *run.estimates()]))


def task_table(run: RunReader, task: str) -> Any:
    """A task as its run's config gives it: an id, or a table of id and options."""
    given = setting(run.config(), "tasks")
    return next((table for table in (given if given is not None else []) if plugin_id(table) == task), None)


def plugin_id(table: Any) -> str | None:
    """The id of a plug-in table of a config, or of the bare id."""
    return table if isinstance(table, str) else setting(table, "id")


def plugin_options(table: Any) -> str | None:
    """The options of a plug-in table as one text."""
    if not isinstance(table, Mapping):
        return None
    options = [f"{key}={value}" for key, value in table.items() if key != "id"]
    return ", ".join(options) if options else None


def sampling(run: RunReader, task: str, key: str) -> str | int | float | None:
    """A sampling setting: the config's, else the task's default on record, else a word that it was that."""
    value = setting(run.config(), "per_task", task, key)
    if value is None:
        value = setting(run.config(), "sampling", key)
    if value is None:
        value = setting(run.record.data, task, "sampling", key)
    return TASK_DEFAULT if value is None else value


def unfinished(named: Sequence[Labelled]) -> list[str]:
    """One loud line for each run that did not end as done."""
    return [_unfinished_line(run, label) for run, label in named if run.status != "done"]


def _unfinished_line(run: RunReader, label: str) -> str:
    error = f" ({run.record.error.partition(chr(10))[0]})" if run.record.error is not None else ""
    if run.status == "running":
        return f"UNFINISHED: {label} is running still"
    meaning = "was killed" if run.record.status == "running" else f"ended as {run.record.status}"
    return f"UNFINISHED: {label} {meaning}{error}; run its command again to finish it"
