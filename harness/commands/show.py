"""Show a task, an objective, another plug-in, a recipe, a preset or a run in full."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import inspect
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.commands import DONE
from harness.commands.base.arguments import add_set, add_split, build_task, parse_sets
from harness.core import config as configs
from harness.core import plugin_files, registry
from harness.core.errors import ConfigError, RunFolderError, UnknownNameError, UsageError
from harness.core.protocols import ModelSource, Split
from harness.core.recipes import ConfigFile, find_config, lineage, methods_of_settings, recipes
from harness.core.text import printable
from harness.core.types import Erratum, Problem
from harness.evaluation import presets
from harness.evaluation.select import find_problem
from harness.models.chat import prompt_ids
from harness.models.loading import load_tokenizer, resolve
from harness.reports.run_facts import without_repeats
from harness.runs.folder import RunReader

EXAMPLE = "harness show countdown --problem 3"
SEPARATOR = "\n\n" + "=" * 40 + "\n\n"
CARD = ("title", "source", "licence", "paper", "released", "fingerprint", "notes")


class Arguments:
    name: str
    problem: str | None
    split: Split
    preset: str | None
    model: str | None
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="an id (or kind/id), a recipe, a preset (or presets/NAME), or a run folder")
    parser.add_argument("--problem", help="of a task: this problem, an id or counted from 0, as a model gets it")
    add_split(parser)
    parser.add_argument("--preset", help="of a task: the prompt that the problem is asked with")
    parser.add_argument("--model", help="with --problem: the prompt as this model's chat template writes it")
    add_set(parser)


def run(args: Arguments) -> int:
    settings = parse_sets(args.set)
    if args.preset is not None:
        settings["prompt"] = args.preset
    print(printable(describe(args.name, split=args.split, problem=args.problem, settings=settings, model=args.model)))
    return DONE


def describe(name: str, *, split: Split, problem: str | None, settings: Mapping[str, Any], model: str | None) -> str:
    """Describe a run folder, or all recipes, presets and plug-ins of a name; `kind/id` names one of them."""
    if model is not None and problem is None:
        raise ConfigError("--model shows how one problem is written for it; choose one with --problem")
    is_run = (Path(name) / "run.json").exists()
    others = {"run": functools.partial(_run_text, name)} if is_run else _without_options(name)
    owners = [] if is_run else _owners(name)
    if others and not owners and (settings or problem is not None):
        raise ConfigError(f"{name} is a {next(iter(others))}: it has no options to set and no problems")
    if problem is not None:
        return _problem(build_task(name.removeprefix("tasks/"), settings), split, problem, model)
    if settings and len(owners) > 1:
        choices = " or ".join(f"{kind}/{plugin_id}" for kind, plugin_id in owners)
        raise ConfigError(f"{name!r} is the name of several: to set options, name {choices}")
    if not others and not owners:
        raise _unknown(name)
    described = [_plugin(kind, plugin_id, settings, split) for kind, plugin_id in owners]
    return SEPARATOR.join([*described, *(text() for text in others.values() if not settings)])


def _without_options(name: str) -> dict[str, functools.partial[str]]:
    """Return by sort how to describe the recipe, the preset and the method of a name."""
    kind, slash, rest = name.partition("/")
    found: dict[str, functools.partial[str]] = {}
    recipe = rest if slash and kind == "recipes" else name
    if recipe in recipes() or (Path(name).suffix == ".toml" and Path(name).is_file()):
        found["recipe"] = functools.partial(_recipe, find_config(recipe))
    preset = rest if slash and kind == "presets" else name
    if preset in presets.preset_files() or (slash and kind == "presets"):
        found["preset"] = functools.partial(presets.describe, preset)
    if name in methods_of_settings() and name not in registry.entries("objectives"):
        found["method without a file of its own"] = functools.partial(_method, name)
    return found


def _owners(name: str) -> list[tuple[str, str]]:
    """Return the kind and id of each plug-in of this name."""
    kind, slash, plugin_id = name.partition("/")
    if slash and kind in registry.KINDS:
        return [(kind, plugin_id)]
    if ":" in name or registry.is_data_file(name):  # a member of a family; only tasks have families
        return [("tasks", name)]
    if plugin_files.is_file(name) and Path(name).is_file():
        return [(kind, name) for kind in registry.kinds_of_file(name)]
    return [(kind, name) for kind in registry.KINDS if name in registry.entries(kind)]


def _unknown(name: str) -> UsageError:
    if Path(name).is_dir():
        return RunFolderError(f"{name} is not a run folder: it has no run.json")
    known = {plugin_id for kind in registry.KINDS for plugin_id in registry.entries(kind)}
    return UnknownNameError(
        "task, objective, recipe, preset or other plug-in", name, {*known, *recipes(), *presets.preset_files()}
    )


def _method(name: str) -> str:
    method = methods_of_settings()[name]
    first = _recipe(recipes()[method.recipes[0]])
    return f"{name}: {method.description}\n\n{method.recipes[0]}:\n\n{first}"


def _recipe(path: Path) -> str:
    """Write a config file with all that it extends as one TOML file, each line with the comment it was set with."""
    files = lineage(path)
    lines = [line for file in files for line in _header(file, is_parent=file is not files[0])]
    comments: dict[tuple[str, str], str] = {}
    for file in reversed(files):
        kept = {key: comment for key, comment in comments.items() if not _sets(file.tree, *key)}
        comments = kept | _comments(file)
    return "\n".join([*lines, *_toml_lines("", configs.read_toml(path), comments)])


def _header(file: ConfigFile, *, is_parent: bool) -> list[str]:
    """Return the comment at the head of a file; that of a file which is extended under its name."""
    text = file.path.read_text(encoding="utf-8")
    head = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    return [f"#\n# extends {file.name}:", *head] if is_parent else head


def _comments(file: ConfigFile) -> dict[tuple[str, str], str]:
    """Return the comments at line ends, by table and key."""
    found, table = {}, ""
    for line in file.path.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"\[([^\[\]]+)\]", line):
            table = heading[1]
        elif setting := re.match(r"([\w-]+) = ", line):
            cuts = (cut for cut in (m.start() for m in re.finditer(" #", line)) if _is_toml(line[:cut]))
            if (cut := next(cuts, None)) is not None:
                found[table, setting[1]] = line[cut:]
    return found


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _sets(tree: Any, table: str, key: str) -> bool:
    for name in table.split(".") if table else ():
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return isinstance(tree, Mapping) and key in tree


def _toml_lines(table: str, values: Mapping[str, Any], comments: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the lines of a table, and those of the tables in it below their headings."""
    lines = _plain_lines(table, {key: v for key, v in values.items() if not isinstance(v, Mapping)}, comments)
    for key, value in values.items():
        if isinstance(value, Mapping):
            name = f"{table}.{key}" if table else key
            lines += ["", f"[{name}]", *_toml_lines(name, value, comments)]
    return lines


def _plain_lines(table: str, values: Mapping[str, Any], comments: Mapping[tuple[str, str], str]) -> list[str]:
    import tomli_w

    lines = []
    for key, value in values.items():
        is_list = isinstance(value, list) and not any(isinstance(item, (Mapping, list)) for item in value)
        # a list of plain values on one line, as people write it; JSON's is TOML's
        text = f"{key} = {json.dumps(value)}" if is_list else tomli_w.dumps({key: value}).rstrip()
        lines.append(text + comments.get((table, key), ""))
    return lines


def _plugin(kind: str, plugin_id: str, settings: Mapping[str, Any], split: Split) -> str:
    plugin = registry.load(kind, plugin_id)
    if plugin_files.is_file(plugin_id):
        module = sys.modules[plugin.__module__]
    else:
        family = registry.family_of(kind, plugin_id)[0]
        module = importlib.import_module(registry.entries(kind)[family].module.partition(":")[0])
    documentation = inspect.getdoc(module)
    parts = [f"{registry.KINDS[kind].noun} {plugin_id}", documentation if documentation is not None else ""]
    options = _options(kind, plugin_id, settings)
    parts.append("\n".join(["options:", *options]) if options else "options: none")
    if kind == "tasks":
        parts += _task_parts(build_task(plugin_id, settings), split)
    return "\n\n".join(parts)


def _options(kind: str, plugin_id: str, settings: Mapping[str, Any]) -> list[str]:
    """Return each option with its value, resolved where all required ones are given."""
    fields = dataclasses.fields(registry.load(kind, plugin_id).Config)
    required = [f.name for f in fields if configs.is_required(f)]
    if not settings.keys() >= set(required):
        return [
            f"  {f.name}" + (" (required)" if f.name in required else f" = {configs.default_of(f)!r}") for f in fields
        ]
    resolved = configs.parse_plugin(kind, {"id": plugin_id, **settings}).options
    return [f"  {f.name} = {_shown(getattr(resolved, f.name))}" for f in fields]


def _shown(value: Any) -> str:
    return configs.label_of(value) if isinstance(value, configs.PluginChoice) else repr(value)


def _task_parts(task: Any, split: Split) -> list[str]:
    card = task.card
    facts = {name: getattr(card, name) for name in CARD}
    if card.several_approaches is not None:
        facts["several approaches"] = f"{card.several_approaches:.1%} of the problems are known to admit more than one"
    parts = [_section("card", facts), _section("sizes", card.sizes)]
    files: dict[str, str] = {split: "\n    ".join(map(str, of_split)) for split, of_split in task.files().items()}
    parts.append(_section("files", files))
    parts.append(_section("fields", card.fields))
    parts.append(_section("errata", {erratum.problem_id: erratum.reason for erratum in card.errata}))
    parts.append(_section("can't be decided by tests alone", _by_reason(card.exclusions)))
    presets = getattr(task, "PROMPTS", {})
    parts.append(_section(f"answers of the {split} split, as its grader reads them", task.answers(split)))
    parts.append(_section("prompts", {name: prompt.source for name, prompt in presets.items()}))
    return [part for part in parts if part]


def _by_reason(errata: Iterable[Erratum]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for erratum in errata:
        found.setdefault(erratum.reason, []).append(erratum.problem_id)
    return {f"{reason} ({len(ids)} problems)": " ".join(ids) for reason, ids in found.items()}


def _section(title: str, facts: Mapping[str, str]) -> str:
    lines = [f"  {name}: {text}" for name, text in facts.items() if text]
    return "\n".join([f"{title}:", *lines]) if lines else ""


def _problem(task: Any, split: Split, name: str, model: str | None) -> str:
    problem = _find_problem(task, split, name)
    if model is None:
        asked = [f"[{message.role}]\n{message.content}" for message in problem.messages]
    else:
        asked = [_as_written(problem, model)]
    tags = ", ".join(f"{key} {value}" for key, value in problem.tags.items())
    return "\n\n".join([f"problem {problem.id} ({tags})", *asked, f"[reference]\n{problem.reference}"])


def _find_problem(task: Any, split: Split, name: str) -> Problem[Any]:
    """Find a problem by id or number. A train split may be endless, so there only a number will do."""
    if name.removeprefix("-").isdecimal() and int(name) < 0:
        raise ConfigError(f"problems are counted from 0, not {name}")
    if split == "train" and not name.isdecimal():
        raise ConfigError(f"problems of the train split are named by number, counted from 0, not {name!r}")
    problems = list(itertools.islice(task.problems(split, 0), int(name) + 1 if split == "train" else None))
    problem = find_problem(problems, name)
    if problem is None and name.isdecimal():
        raise ConfigError(f"the {split} split has no problem number {name}")
    if problem is None:
        raise UnknownNameError("problem", name, (problem.id for problem in problems))
    return problem


def _as_written(problem: Problem[Any], model: str) -> str:
    """Return the prompt as the model reads it, with facts about it that are easily wrong."""
    tokenizer = load_tokenizer(ModelSource(resolve(model)))
    ids = prompt_ids(tokenizer, problem.messages)
    written = tokenizer.decode(ids)
    roles = {message.role for message in problem.messages}
    bos = ids[:2].count(tokenizer.bos_token_id) if tokenizer.bos_token_id is not None else 0
    facts = {
        "tokens": str(len(ids)),
        "system message": "the task's" if "system" in roles else "the template's own, if it has one",
        "leading BOS tokens": str(bos) + (" (one too many)" if bos > 1 else ""),
        "reasoning": "opened by the template" if written.rstrip().endswith("<think>") else "left to the model",
    }
    return "\n\n".join([f"[as {model} reads it]\n{written}", _section("about it", facts)])


def _run_text(folder: str) -> str:
    view = RunReader.read(Path(folder))
    record = view.record
    lines = [
        f"run {record.id}: {record.kind}, {view.status}" + (f" ({record.error})" if record.error is not None else ""),
        f"created {record.created} by {record.code}, config {record.config_digest}",
    ]
    lines += [
        f"{task}: {e.name} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}] over {e.n_problems} problems, {e.method}"
        for task, estimates in view.estimates().items()
        for e in without_repeats(estimates)
    ]
    steps = view.steps()
    if steps:
        lines.append(f"step {steps[-1]['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in steps[-1].items()))
    return "\n".join([*lines, "", configs.to_toml(view.config()).rstrip()])
