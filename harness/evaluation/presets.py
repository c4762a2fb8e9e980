"""Presets: the complete protocols of published evaluations, one TOML file each, every value with its source.

A preset comes before the config file, and both before the flags. What is then not as the preset says is a deviation:
it is told when a run begins, and kept with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core import registry
from harness.core.config import Tree, sections
from harness.core.errors import ConfigError, UnknownNameError
from harness.core.types import Sampling

FOLDER = registry.PACKAGE / "presets"
SAMPLING = tuple(option.name for option in fields(Sampling))


@dataclass(frozen=True, slots=True)
class Said:
    """A value, and where it was read."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Part:
    """The tasks that are asked and graded alike, and what differs from the source however they are run."""

    tasks: tuple[str, ...]
    also: tuple[str, ...] = ()
    """Tasks that the source does not have, and that can be asked in the same way."""
    deviations: tuple[str, ...] = ()
    options: Mapping[str, Said] = sections()
    """Of the task."""
    settings: Mapping[str, Said] = sections()
    """As in `per_task` of an evaluation's config."""


@dataclass(frozen=True, slots=True)
class Preset:
    title: str
    paper: str
    run: Mapping[str, Said] = sections()
    """Keys of an evaluation's config, such as `sampling.temperature`."""
    parts: Mapping[str, Part] = sections()


def presets() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def titles() -> dict[str, str]:
    return {name: read_preset(name).title for name in presets()}


def read_preset(name: str) -> Preset:
    """A preset by its name, or from a TOML file of one's own."""
    if name not in presets() and Path(name).suffix != ".toml":
        raise UnknownNameError("preset", name, presets())
    path = presets().get(name, Path(name))
    try:
        return configs.parse(Preset, configs.read_toml(path))
    except ConfigError as error:
        raise ConfigError(f"the preset {name}: {error}") from None


def apply(name: str, given: Tree) -> Tree:
    """The settings of a preset for the tasks of `given`, under everything that is given."""
    preset = read_preset(name)
    tables = [{"id": task} if isinstance(task, str) else dict(task) for task in given["tasks"]]
    parts = {table["id"]: _part(preset, name, table["id"]) for table in tables}
    run = [_nested(key, said.value) for key, said in preset.run.items()]
    tasks = [{**_values(parts[table["id"]].options), **table} for table in tables]
    # What is set for all tasks by hand stands above what the preset says of one.
    by_hand = {*given.get("sampling", {}), *({"grader"} & given.keys())}
    per_task = {
        task: {key: value for key, value in _values(part.settings).items() if key not in by_hand}
        for task, part in parts.items()
    }
    return configs.merge(*run, {"per_task": per_task}, {**given, "tasks": tasks})


def deviations(name: str, as_published: Tree, as_run: Tree) -> list[str]:
    """What is not as the preset says, given the resolved config of the preset alone and that of the run."""
    preset = read_preset(name)
    tasks: list[str] = [table["id"] for table in as_run["tasks"]]
    parts = {task: _part(preset, name, task) for task in tasks}
    departures = {t: _departures(name, preset, parts[t], t, as_published, as_run) for t in tasks}
    standing = {t: _standing(name, parts[t], t) for t in tasks}
    told: dict[str, list[str]] = {}
    for texts in (departures, standing):
        for task in tasks:
            for text in texts[task]:
                told.setdefault(text, []).append(task)
    lines = [text if len(owners) == len(tasks) else f"{', '.join(owners)}: {text}" for text, owners in told.items()]
    if as_run.get("limit") is not None:
        lines.append(f"only the first {as_run['limit']} problems are asked")
    if as_run.get("problems") is not None:
        lines.append(f"only the problems {', '.join(as_run['problems'])} are asked")
    return lines


def shown(name: str) -> str:
    """A preset as a person wants to read it: each value with its source."""
    preset = read_preset(name)
    lines = [f"preset {name}: {preset.title}", preset.paper, "", "for every task:", *_listed(preset.run)]
    for part in preset.parts.values():
        lines += ["", f"for {', '.join(part.tasks)}:", *_listed({**part.options, **part.settings})]
        lines += [f"  also, though the source does not have them: {', '.join(part.also)}"] if part.also else []
        lines += [f"  differs: {text}" for text in part.deviations]
    return "\n".join(lines)


def _listed(values: Mapping[str, Said]) -> list[str]:
    return [f"  {key} = {_told(said.value)}  ({said.source})" for key, said in values.items()]


def _part(preset: Preset, name: str, task: str) -> Part:
    for part in preset.parts.values():
        if task in (*part.tasks, *part.also):
            return part
    known = ", ".join(task for part in preset.parts.values() for task in (*part.tasks, *part.also))
    raise ConfigError(f"the preset {name} does not say how {task} is evaluated, only {known}; leave one of them out")


def _departures(name: str, preset: Preset, part: Part, task: str, as_published: Tree, as_run: Tree) -> Iterator[str]:
    published, ours = _protocol(as_published, task), _protocol(as_run, task)
    said = [key.removeprefix("sampling.") for key in preset.run]
    for key in dict.fromkeys([*said, *part.options, *part.settings, "grader"]):
        there, here = published.get(key), ours.get(key)
        if there != here:
            yield f"{key} {_told(here, there)}, preset {name} says {_told(there, here)}"


def _standing(name: str, part: Part, task: str) -> Iterator[str]:
    if task in part.also:
        yield f"the source of preset {name} does not have this task; it is asked like {part.tasks[0]}"
    yield from part.deviations


def _protocol(tree: Tree, task: str) -> Tree:
    """What a preset can say of a task, flat."""
    options = next(table for table in tree["tasks"] if table["id"] == task)
    of_task = tree.get("per_task", {}).get(task, {})
    sampling = {**tree.get("sampling", {}), **{key: of_task[key] for key in SAMPLING if key in of_task}}
    return {**tree, **options, **sampling, "grader": of_task.get("grader", tree.get("grader"))}


def _told(value: Any, other: Any = None) -> str:
    """A value in a sentence. Plug-ins by their ids, with their options only where the ids do not tell them apart."""
    if value is None:
        return "the task's own"
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={_told(item)}" for key, item in value.items() if key != "id")
        is_enough = not isinstance(other, Mapping) or other.get("id") != value["id"]
        return str(value["id"]) if not options or (other is not None and is_enough) else f"{value['id']}({options})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        ids = [item["id"] if isinstance(item, Mapping) else item for item in value]
        theirs = [item["id"] if isinstance(item, Mapping) else item for item in other] if other is not None else None
        return ", ".join(_told(item) for item in value) if ids == theirs or other is None else ", ".join(map(str, ids))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(said: Mapping[str, Said]) -> Tree:
    return {key: each.value for key, each in said.items()}


def _nested(key: str, value: Any) -> Tree:
    for part in reversed(key.split(".")):
        value = {part: value}
    tree: Tree = value
    return tree
