"""`harness show`: one plug-in, one problem, one recipe or one run, as a person wants to read it."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core import discovery
from harness.core.errors import ConfigError, RunFolderError, UnknownNameError
from harness.core.protocols import Split
from harness.core.store import RunView
from harness.core.types import Problem

RECIPES = discovery.PACKAGE / "trainers" / "recipes"


def recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def find_config(name: str) -> Path:
    """A TOML file, or a recipe by its name."""
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return Path(name)
    if name not in recipes():
        raise UnknownNameError("recipe or config file", name, recipes())
    return recipes()[name]


def show(name: str, *, split: Split, problem: int | None) -> str:
    """`name` is a run folder, a recipe, an id, or `kind/id` where several kinds have it."""
    if (Path(name) / "run.json").exists():
        return _run(RunView.read(Path(name)))
    if name in recipes():
        return recipes()[name].read_text(encoding="utf-8").rstrip()
    if problem is not None:
        return _problem(name.removeprefix("tasks/"), split, problem)
    return _plugin(*_find(name))


def _find(name: str) -> tuple[str, str]:
    kind, slash, plugin_id = name.partition("/")
    if slash and kind in discovery.KINDS:
        return kind, plugin_id
    owners = [kind for kind in discovery.KINDS if name in discovery.entries(kind)]
    if len(owners) > 1:
        raise ConfigError(f"{name!r} is a name of several: " + " or ".join(f"{kind}/{name}" for kind in owners))
    if not owners:
        if Path(name).is_dir():
            raise RunFolderError(f"{name} is no run folder: it has no run.json")
        known = {plugin_id for kind in discovery.KINDS for plugin_id in discovery.entries(kind)}
        raise UnknownNameError("task, objective, recipe or other plug-in", name, {*known, *recipes()})
    return owners[0], name


def _plugin(kind: str, plugin_id: str) -> str:
    plugin = discovery.load(kind, plugin_id)
    documentation = inspect.getdoc(inspect.getmodule(plugin))
    parts = [f"{discovery.KINDS[kind].noun} {plugin_id}", documentation if documentation is not None else ""]
    options = [_option(field) for field in dataclasses.fields(plugin.Config)]
    parts.append("\n".join(["options:", *options]) if options else "options: none")
    if kind == "tasks":
        parts.append(_card(plugin_id))
    return "\n\n".join(parts)


def _option(field: dataclasses.Field[Any]) -> str:
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return f"  {field.name}" + (" (required)" if required else f" = {field.default!r}")


def _card(task_id: str) -> str:
    task = _task(task_id)
    card = dataclasses.asdict(task.card)
    sizes = ", ".join(f"{split} {size}" for split, size in card.pop("sizes").items())
    return "\n".join(["card:", *(f"  {key}: {value}" for key, value in card.items() if value), f"  sizes: {sizes}"])


def _task(task_id: str) -> Any:
    return configs.parse_plugin("tasks", task_id).build("tasks")


def _problem(task_id: str, split: Split, number: int) -> str:
    if number < 0:
        raise ConfigError(f"problems are counted from 0, not {number}")
    found: list[Problem[Any]] = list(itertools.islice(_task(task_id).problems(split, 0), number, number + 1))
    if not found:
        raise ConfigError(f"the {split} split of {task_id} has no problem number {number}")
    problem = found[0]
    turns = [f"[{message.role}]\n{message.content}" for message in problem.messages]
    tags = ", ".join(f"{key} {value}" for key, value in problem.tags.items())
    return "\n\n".join([f"problem {problem.id} ({tags})", *turns, f"[reference]\n{problem.reference}"])


def _run(view: RunView) -> str:
    record = view.record
    lines = [
        f"run {record.id}: {record.kind}, {record.status}" + (f" ({record.error})" if record.error is not None else ""),
        f"created {record.created} by {record.code}, config {record.config_digest}",
    ]
    lines += [
        f"{task}: {e.name} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}] over {e.n_problems} problems, {e.method}"
        for task, estimates in view.estimates().items()
        for e in estimates
    ]
    steps = view.steps()
    if steps:
        lines.append(f"step {steps[-1]['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in steps[-1].items()))
    return "\n".join([*lines, "", configs.to_toml(view.config()).rstrip()])
