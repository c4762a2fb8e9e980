"""The settings of a run that reports read, from a config.toml of this or an older version of the harness.

A resolved config leaves out the keys that are None, and an older one may lack keys that were added since. So every
field that a config lacks is None or empty here, and keys that reports do not show are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.core.errors import RunFolderError
from harness.runs.folder import RunReader

Table = Mapping[str, Any]
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """A plug-in as a config names it: by an id, or by a table of an id and options."""

    id: str
    options: Table

    def settings(self) -> Table:
        """Return the table that `parse_plugin` reads."""
        return {"id": self.id, **self.options}

    def options_text(self) -> str | None:
        return options_text(self.options)

    def __str__(self) -> str:
        options = self.options_text()
        return self.id if options is None else f"{self.id} ({options})"


@dataclass(frozen=True, slots=True)
class RunConfig:
    model: str | None
    model_options: Table
    """Keys of `[model]` other than its path."""
    tasks: Sequence[PluginSettings]
    """The tasks of an evaluation, or the one of a training run."""
    objective: PluginSettings | None
    engine: PluginSettings | None
    metrics: Sequence[PluginSettings]
    sampling: Table
    prompt: Table
    """Changes of the prompts of all tasks."""
    per_task: Mapping[str, Table]
    preset: str | None
    deviations: Sequence[str]
    split: str | None
    n: int | None
    until: float | None
    limit: int | None
    problems: Sequence[str]
    seed: int | None
    problem_seed: int | None
    n_steps: int | None

    def task(self, task_id: str) -> PluginSettings | None:
        return next((task for task in self.tasks if task.id == task_id), None)

    def prompt_of(self, task_id: str, key: str) -> str | bool | None:
        """Return a change of a task's prompts: its own, else that for all tasks, else None."""
        value: str | bool | None = subtable(subtable(self.per_task, task_id), "prompt").get(key)
        return value if value is not None else self.prompt.get(key)

    def sampling_of(self, task_id: str, key: str) -> str | int | float | None:
        """Return a sampling setting of a task: its own, else that of all tasks, else None."""
        value: str | int | float | None = subtable(self.per_task, task_id).get(key)
        return value if value is not None else self.sampling.get(key)


def run_config(run: RunReader) -> RunConfig:
    """Parse the config of a run."""
    config, where = run.config(), run.folder / "config.toml"
    model = subtable(config, "model")
    tasks = _found(config, "tasks", list, where) if run.record.kind == "eval" else [config.get("task")]
    return RunConfig(
        model=_found(model, "path", str, where),
        model_options={key: value for key, value in model.items() if key != "path"},
        tasks=_plugins(tasks or []),
        objective=_plugin(config.get("objective")),
        engine=_plugin(config.get("engine")),
        metrics=_plugins(_found(config, "metrics", list, where) or []),
        sampling=subtable(config, "sampling"),
        prompt=subtable(config, "prompt"),
        per_task=subtable(config, "per_task"),
        preset=_found(config, "preset", str, where),
        deviations=[str(line) for line in _found(config, "deviations", list, where) or []],
        split=_found(config, "split", str, where),
        n=_found(config, "n", int, where),
        until=_found(config, "until", float, where),  # a resolved config writes it with its point
        limit=_found(config, "limit", int, where),
        problems=[str(name) for name in _found(config, "problems", list, where) or []],
        seed=_found(config, "seed", int, where),
        problem_seed=_found(config, "problem_seed", int, where),
        n_steps=_found(subtable(config, "loop"), "steps", int, where),
    )


def subtable(table: Table, key: str) -> Table:
    """Return the table under a key; an empty one where there is none."""
    found = table.get(key)
    return found if isinstance(found, Mapping) else {}


def _found(table: Table, key: str, kind: type[V], where: Path) -> V | None:
    """Return the value under a key, None if there is none. Raise RunFolderError if it has another type."""
    value = table.get(key)
    if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
        return value
    raise RunFolderError(f"{where}: {key} has the wrong type, {type(value).__name__}; the file was altered: restore it")


def options_text(options: Table) -> str | None:
    """Return options as one text; None without any."""
    return ", ".join(f"{key}={value}" for key, value in options.items()) if options else None


def _plugins(tables: Sequence[Any]) -> list[PluginSettings]:
    return [plugin for table in tables if (plugin := _plugin(table)) is not None]


def _plugin(table: Any) -> PluginSettings | None:
    if isinstance(table, str):
        return PluginSettings(table, {})
    if not isinstance(table, Mapping) or not isinstance(table.get("id"), str):
        return None
    return PluginSettings(table["id"], {key: value for key, value in table.items() if key != "id"})
