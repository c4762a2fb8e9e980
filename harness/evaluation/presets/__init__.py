"""Presets: the complete protocols of published evaluations, one TOML file each, every value with its source.

The config file stands above a preset, and the flags above both. Settings that then differ from the preset are
deviations: they are printed when a run begins, and stored with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.config import Tree, sections
from harness.core.errors import ConfigError, UnknownNameError
from harness.core.types import Sampling
from harness.evaluation.config import EvalConfig

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value, and the source that states it."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Tasks that are asked and graded in the same way."""

    tasks: tuple[str, ...]
    also: tuple[str, ...] = ()
    """Tasks that the source does not evaluate but that can be asked in the same way."""
    deviations: tuple[str, ...] = ()
    """Differences from the source that no setting removes."""
    options: Mapping[str, Sourced] = sections()
    """Options of the task."""
    settings: Mapping[str, Sourced] = sections()
    """Keys of `per_task` in an evaluation's config."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset file."""

    title: str
    paper: str
    run: Mapping[str, Sourced] = sections()
    """Keys of an evaluation's config, such as `sampling.temperature`."""
    parts: Mapping[str, TaskGroup] = sections()


def preset_files() -> dict[str, Path]:
    """Return the files of the bundled presets by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def titles() -> dict[str, str]:
    """Return the titles of the bundled presets by name."""
    return {name: read_preset(name).title for name in preset_files()}


def read_preset(name: str) -> Preset:
    """Read a bundled preset by its name, or another one from the path of a TOML file."""
    if name not in preset_files() and Path(name).suffix != ".toml":
        raise UnknownNameError("preset", name, preset_files())
    path = preset_files().get(name, Path(name))
    try:
        return configs.parse(Preset, configs.read_toml(path))
    except ConfigError as error:
        raise ConfigError(f"the preset {name}: {error}") from None


def resolve_config(given: Tree) -> EvalConfig:
    """Parse the settings of one evaluation over those of its preset, with the deviations from the preset."""
    given = {key: value for key, value in given.items() if key != "deviations"}
    name = given.get("preset")
    if name is None or not isinstance(given.get("tasks"), list) or "model" not in given:
        return configs.parse(EvalConfig, given)
    bare: Tree = {key: given[key] for key in ("model", "engine", "preset") if key in given}
    ids = [task["id"] if isinstance(task, dict) else task for task in given["tasks"]]
    published = configs.parse(EvalConfig, apply(name, {**bare, "tasks": ids}))
    config = configs.parse(EvalConfig, apply(name, given))
    found = deviations(name, configs.to_tree(published), configs.to_tree(config))
    return replace(config, deviations=tuple(found))


def apply(name: str, given: Tree) -> Tree:
    """Return the settings of a preset for the tasks of `given`, under everything that is given."""
    preset = read_preset(name)
    tables = [{"id": task} if isinstance(task, str) else dict(task) for task in given["tasks"]]
    parts = {table["id"]: _part(preset, name, table["id"]) for table in tables}
    run = [_nested(key, sourced.value) for key, sourced in preset.run.items()]
    tasks = [{**_values(parts[table["id"]].options), **table} for table in tables]
    # Settings that are given for all tasks stand above those of the preset for one task.
    by_hand = {*given.get("sampling", {}), *({"grader"} & given.keys())}
    per_task = {
        task: {key: value for key, value in _values(part.settings).items() if key not in by_hand}
        for task, part in parts.items()
    }
    return configs.merge(*run, {"per_task": per_task}, {**given, "tasks": tasks})


def deviations(name: str, as_published: Tree, as_run: Tree) -> list[str]:
    """Return the deviations of a run's resolved config from that of the preset alone, as lines of text."""
    preset = read_preset(name)
    tasks: list[str] = [table["id"] for table in as_run["tasks"]]
    parts = {task: _part(preset, name, task) for task in tasks}
    departures = {t: _departures(name, preset, parts[t], t, as_published, as_run) for t in tasks}
    standing = {t: _standing(name, parts[t], t) for t in tasks}
    tasks_of: dict[str, list[str]] = {}
    for texts in (departures, standing):
        for task in tasks:
            for text in texts[task]:
                tasks_of.setdefault(text, []).append(task)
    lines = [text if len(some) == len(tasks) else f"{', '.join(some)}: {text}" for text, some in tasks_of.items()]
    if as_run.get("limit") is not None:
        lines.append(f"only the first {as_run['limit']} problems are asked")
    if as_run.get("problems") is not None:
        lines.append(f"only the problems {', '.join(as_run['problems'])} are asked")
    return lines


def describe(name: str) -> str:
    """Return a preset as text: each value with its source."""
    preset = read_preset(name)
    lines = [f"preset {name}: {preset.title}", preset.paper, "", "for every task:", *_lines(preset.run)]
    for part in preset.parts.values():
        lines += ["", f"for {', '.join(part.tasks)}:", *_lines({**part.options, **part.settings})]
        lines += [f"  also, though the source does not have them: {', '.join(part.also)}"] if part.also else []
        lines += [f"  differs: {text}" for text in part.deviations]
    return "\n".join(lines)


def _lines(values: Mapping[str, Sourced]) -> list[str]:
    return [f"  {key} = {_format(sourced.value)}  ({sourced.source})" for key, sourced in values.items()]


def _part(preset: Preset, name: str, task: str) -> TaskGroup:
    for part in preset.parts.values():
        if task in (*part.tasks, *part.also):
            return part
    known = ", ".join(task for part in preset.parts.values() for task in (*part.tasks, *part.also))
    raise ConfigError(f"the preset {name} does not state how {task} is evaluated, only {known}; leave one of them out")


def _departures(
    name: str, preset: Preset, part: TaskGroup, task: str, as_published: Tree, as_run: Tree
) -> Iterator[str]:
    published, ours = _protocol(as_published, task), _protocol(as_run, task)
    stated = [key.removeprefix("sampling.") for key in preset.run]
    for key in dict.fromkeys([*stated, *part.options, *part.settings, "grader"]):
        there, here = published.get(key), ours.get(key)
        if there != here:
            yield f"{key} {_format(here, there)}, preset {name} has {_format(there, here)}"


def _standing(name: str, part: TaskGroup, task: str) -> Iterator[str]:
    if task in part.also:
        yield f"the source of preset {name} does not have this task; it is asked like {part.tasks[0]}"
    yield from part.deviations


def _protocol(tree: Tree, task: str) -> Tree:
    """Return the settings of a task that a preset can state, flat."""
    options = next(table for table in tree["tasks"] if table["id"] == task)
    of_task = tree.get("per_task", {}).get(task, {})
    sampling = {**tree.get("sampling", {}), **{f.name: of_task[f.name] for f in fields(Sampling) if f.name in of_task}}
    return {**tree, **options, **sampling, "grader": of_task.get("grader", tree.get("grader"))}


def _format(value: Any, other: Any = None) -> str:
    """Format a value for a sentence. A plug-in is its id, with its options if the other one has the same id."""
    if value is None:
        return "the task's own"
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={_format(item)}" for key, item in value.items() if key != "id")
        is_enough = not isinstance(other, Mapping) or other.get("id") != value["id"]
        return str(value["id"]) if not options or (other is not None and is_enough) else f"{value['id']}({options})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        ids = [item["id"] if isinstance(item, Mapping) else item for item in value]
        theirs = [item["id"] if isinstance(item, Mapping) else item for item in other] if other is not None else None
        return (
            ", ".join(_format(item) for item in value) if ids == theirs or other is None else ", ".join(map(str, ids))
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(table: Mapping[str, Sourced]) -> Tree:
    return {key: sourced.value for key, sourced in table.items()}


def _nested(key: str, value: Any) -> Tree:
    for part in reversed(key.split(".")):
        value = {part: value}
    tree: Tree = value
    return tree
