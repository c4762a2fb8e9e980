"""The settings of a run that reports read, from a config.toml of this or an older version of the harness.

A resolved config leaves out the keys that are None, and an older one may lack keys that were added since. So every
field that a config lacks is None or empty here, and keys that reports do not show are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.runs.folder import RunReader

Table = Mapping[str, Any]


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

    def sampling_of(self, task_id: str, key: str) -> str | int | float | None:
        """Return a sampling setting of a task: its own, else that of all tasks, else None."""
        value: str | int | float | None = subtable(self.per_task, task_id).get(key)
        return value if value is not None else self.sampling.get(key)


def run_config(run: RunReader) -> RunConfig:
    """Parse the config of a run."""
    config = run.config()
    model = subtable(config, "model")
    tasks = config.get("tasks", []) if run.record.kind == "eval" else [config.get("task")]
    return RunConfig(
        model=model.get("path"),
        model_options={key: value for key, value in model.items() if key != "path"},
        tasks=_plugins(tasks),
        objective=_plugin(config.get("objective")),
        engine=_plugin(config.get("engine")),
        metrics=_plugins(config.get("metrics", [])),
        sampling=subtable(config, "sampling"),
        per_task=subtable(config, "per_task"),
        preset=config.get("preset"),
        deviations=config.get("deviations", []),
        split=config.get("split"),
        n=config.get("n"),
        until=config.get("until"),
        limit=config.get("limit"),
        problems=config.get("problems", []),
        seed=config.get("seed"),
        problem_seed=config.get("problem_seed"),
        n_steps=subtable(config, "loop").get("steps"),
    )


def subtable(table: Table, key: str) -> Table:
    """Return the table under a key; an empty one where there is none."""
    found = table.get(key)
    return found if isinstance(found, Mapping) else {}


def options_text(options: Table) -> str | None:
    """Return options as one text; None without any."""
    return ", ".join(f"{key}={value}" for key, value in options.items()) if options else None


def _plugins(tables: Sequence[Any]) -> list[PluginSettings]:
    return [plugin for table in tables if (plugin := _plugin(table)) is not None]


def _plugin(table: Any) -> PluginSettings | None:
    if isinstance(table, str):
        return PluginSettings(table, {})
    if not isinstance(table, Mapping) or "id" not in table:
        return None
    return PluginSettings(table["id"], {key: value for key, value in table.items() if key != "id"})
