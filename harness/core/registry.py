"""The file system is the registry: a plug-in is a file or a package with one constant, and its name is the id.

Listing reads file names and docstrings and imports nothing. Loading imports one module, checks that its constant is a
subclass of the kind's base class with everything that class demands, and sets its `plugin_id`. Other distributions
plug in through entry-point groups that are named like the folders' packages. The path of a `.py` file is an id too.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core import plugin_files, protocols
from harness.core.errors import PluginError, UnknownNameError, UsageError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of plug-in. `group` is both the package and the entry-point group."""

    noun: str
    group: str
    constant: str
    base: type[protocols.Plugin]


@dataclass(frozen=True, slots=True)
class Entry:
    """A plug-in that exists and is not imported yet."""

    id: str
    description: str
    module: str


KINDS = {
    "tasks": Kind("task", "harness.tasks", "TASK", protocols.Task),
    "engines": Kind("engine", "harness.engines", "ENGINE", protocols.Engine),
    "graders": Kind("grader", "harness.graders", "GRADER", protocols.Grader),
    "metrics": Kind("metric", "harness.metrics", "METRIC", protocols.Metric),
    "advantages": Kind("advantage", "harness.trainers.advantages", "ADVANTAGE", protocols.Advantage),
    "objectives": Kind("objective", "harness.trainers.objectives", "OBJECTIVE", protocols.Objective),
    "backends": Kind("backend", "harness.trainers.backends", "BACKEND", protocols.Backend),
    "tables": Kind("table", "harness.reports.tables", "TABLE", protocols.TableBuilder),
}

DATA_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
"""Endings of file names that are read as rows; `.gz` may follow. Such a name is a task of the family OWN_DATA."""
OWN_DATA = "jsonl"

PACKAGE = Path(__file__).resolve().parents[1]
IMPORT_SYSTEM = (__file__, importlib.__file__)


def entries(kind_name: str) -> dict[str, Entry]:
    """Return the plug-ins of a kind by id: built-in ones and entry points. Raise if two have one id."""
    kind = KINDS[kind_name]
    found = dict(_found_in(kind, _folder(kind), tuple(_sources(_folder(kind)))))
    for point in sorted(_entry_points(kind.group, _search_path()), key=lambda p: p.name):
        if point.name in found:
            raise PluginError(
                f"two plug-ins have the id {point.name!r} of a {kind.noun}: {found[point.name].module} and "
                f"{point.value}; rename or uninstall one"
            )
        found[point.name] = Entry(point.name, _point_description(point), point.value)
    return dict(sorted(found.items()))


def load(kind_name: str, plugin_id: str) -> Any:
    """Return the class of a plug-in, checked. For `family:member` the plug-in `family` returns it.

    An id that ends in `.py` is the path of a file.
    """
    kind = KINDS[kind_name]
    if plugin_files.is_file(plugin_id):
        return _plugin_of(kind, plugin_id, plugin_files.load_file(plugin_id), plugin_id, kind.constant)
    known = entries(kind_name)
    family, is_member, member = family_of(kind_name, plugin_id)
    if is_member and family in known:
        return _stamped(load(kind_name, family).member(member), plugin_id)
    if plugin_id not in known:
        if (explanation := kind.base.explain_unknown(plugin_id)) is not None:
            raise UsageError(explanation)
        raise UnknownNameError(kind.noun, plugin_id, known)
    module_name, _, attribute = known[plugin_id].module.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PluginError(
            f"the {kind.noun} {plugin_id!r} can't be imported from {module_name}{_place(error)}: "
            f"{plugin_files.described(error)}"
        ) from error
    return _plugin_of(kind, plugin_id, module, module_name, attribute if attribute else kind.constant)


def _plugin_of(kind: Kind, plugin_id: str, module: ModuleType, where: str, constant: str) -> Any:
    """Return the class that a module assigns to its constant, checked and with its id."""
    plugin = getattr(module, constant, None)
    if plugin is None:
        raise PluginError(f"{where} does not end in the constant {constant}, as a file of this kind ({kind.noun}) must")
    _check(kind, plugin_id, plugin)
    return _stamped(plugin, plugin_id)


def is_data_file(name: str) -> bool:
    """Return whether this is the name of a file of rows."""
    return name.lower().removesuffix(".gz").endswith(DATA_FILES)


def family_of(kind_name: str, plugin_id: str) -> tuple[str, str, str]:
    """Split `family:member` at the colon, as `str.partition` does. The path of a data file is a member by itself."""
    if kind_name == "tasks" and is_data_file(plugin_id) and plugin_id.partition(":")[0] not in entries("tasks"):
        return OWN_DATA, ":", plugin_id
    return plugin_id.partition(":")


def _place(error: Exception) -> str:
    """Return ` (file:line)` of an error outside the import system, if there is such a line."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen importlib")]
    places = [f"{frame.filename}:{frame.lineno}" for frame in frames if not frame.filename.startswith(IMPORT_SYSTEM)]
    return f" ({places[-1]})" if places else ""


def kinds_of_file(path: str) -> list[str]:
    """Return the kinds of which a file defines a plug-in, without importing it."""
    return [name for name, kind in KINDS.items() if _assigns(kind.constant, Path(path))]


def id_of(kind_name: str, plugin: type[protocols.Plugin]) -> str:
    """Return the id of a plug-in's class that was imported directly, as a task imports its grader."""
    for point in _entry_points(KINDS[kind_name].group, _search_path()):
        if point.module == plugin.__module__ and load(kind_name, point.name) is plugin:
            return point.name
    return plugin.plugin_id


def _search_path() -> tuple[tuple[str, int], ...]:
    """Return where packages are looked for, and when each folder was changed last."""
    paths = [path if path else "." for path in sys.path]
    return tuple((path, os.stat(path).st_mtime_ns) for path in paths if os.path.isdir(path))


@functools.cache
def _entry_points(group: str, _searched: object) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Return the entry points of a group. Reading those of all packages takes 20 ms, and `load` needs them."""
    return tuple(importlib.metadata.entry_points(group=group))


def _stamped(plugin: type[protocols.Plugin], plugin_id: str) -> type[protocols.Plugin]:
    plugin.plugin_id = plugin_id
    return plugin


def _check(kind: Kind, plugin_id: str, plugin: Any) -> None:
    base = f"{kind.base.__module__}.{kind.base.__name__}"
    if not isinstance(plugin, type) or not issubclass(plugin, kind.base):
        raise PluginError(
            f"the {kind.noun} {plugin_id!r} must be a subclass of {base}: write `class ...({kind.base.__name__}):`"
        )
    if not dataclasses.is_dataclass(plugin.Config):
        raise PluginError(
            f"the options of the {kind.noun} {plugin_id!r} must be a dataclass: decorate its class Config"
        )
    missing = sorted(plugin.__abstractmethods__ | (required_attributes(kind.base) - _declared(plugin, kind.base)))
    if missing:
        raise PluginError(f"the {kind.noun} {plugin_id!r} lacks {', '.join(missing)}, which {base} demands")


def required_attributes(base: type) -> set[str]:
    """Return the attributes that a base class annotates without a value."""
    annotated = {name for cls in base.__mro__ for name in inspect.get_annotations(cls)}
    return {name for name in annotated if not hasattr(base, name)} - {"config"}


def _declared(plugin: type, base: type) -> set[str]:
    # An attribute set in __init__ counts when the class declares it: by annotation, slot or property.
    own = [cls for cls in plugin.__mro__ if cls not in base.__mro__]
    return {name for cls in own for name in (*vars(cls), *inspect.get_annotations(cls))}


def refuse_lost_links() -> None:
    """Raise if the symbolic links to the mounted folders are missing, which some tools drop."""
    for kind in KINDS.values():
        folder = _folder(kind)
        if not folder.is_dir():
            raise PluginError(
                f"{folder} is missing: the folders tasks, trainers and reports are mounted into harness/ by symbolic "
                "links, and this copy of the project has lost them; clone it again with symbolic links enabled"
            )


def _folder(kind: Kind) -> Path:
    return PACKAGE.joinpath(*kind.group.split(".")[1:])


@functools.lru_cache(maxsize=2 * len(KINDS))
def _found_in(kind: Kind, folder: Path, _sources_of_folder: object) -> Mapping[str, Entry]:
    """Return the plug-ins of a folder. Reading its files takes 4 ms, and a report loads hundreds of plug-ins."""
    return {entry.id: entry for entry in _built_in(kind, folder, kind.group)}


def _sources(folder: Path | str) -> Iterator[tuple[str, int, int]]:
    """Yield the Python files of a folder and its packages, with the time of change and the size of each."""
    with os.scandir(folder) as items:
        for item in sorted(items, key=lambda item: item.name):
            if item.name.endswith(".py"):
                state = item.stat(follow_symlinks=False)
                yield item.path, state.st_mtime_ns, state.st_size
            elif item.is_dir() and os.path.exists(os.path.join(item.path, "__init__.py")):
                yield from _sources(item.path)


def _built_in(kind: Kind, folder: Path, package: str) -> Iterator[Entry]:
    """Yield the plug-ins of a folder: its files, its packages that assign the constant, and those in other subfolders.

    A file in a subfolder is a helper unless it assigns the constant.
    """
    for path in sorted(folder.iterdir()):
        if path.name[0] in "_." or path.suffix not in ("", ".py"):
            continue
        source = path / "__init__.py" if path.is_dir() else path
        if path.is_dir() and not _assigns(kind.constant, source):
            yield from _built_in(kind, path, f"{package}.{path.name}") if source.exists() else ()
        elif package == kind.group or _assigns(kind.constant, source):
            yield Entry(path.stem, _first_sentence(source.read_bytes()), f"{package}.{path.stem}")


def _assigns(constant: str, source: Path) -> bool:
    return source.exists() and re.search(rf"^{constant}\b.* = ", source.read_text("utf-8"), re.MULTILINE) is not None


def _point_description(point: importlib.metadata.EntryPoint) -> str:
    provider = point.dist.name if point.dist is not None else "another package"
    return f"from {provider}"


def _first_sentence(source: bytes) -> str:
    """Return the first line of a module's docstring, without importing the module."""
    try:
        docstring = ast.get_docstring(ast.parse(source))
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL byte, before Python 3.12
        return f"(this file does not parse: {error})"
    return docstring.splitlines()[0] if docstring else ""


def build(kind_name: str, plugin_id: str, config: Any) -> Any:
    """Return an instance of a plug-in, given its parsed `Config`."""
    return load(kind_name, plugin_id)(config)


def descriptions(kind_name: str) -> Mapping[str, str]:
    return {entry.id: entry.description for entry in entries(kind_name).values()}
