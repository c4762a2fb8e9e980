"""Configs: TOML plus `--set section.key=value`, parsed once into frozen dataclasses, stored resolved.

Plug-in tables (`[objective]`, `[engine]`, `[task]`) hold an `id` and the options of that plug-in's own `Config`. The
field of the schema is declared with `plugin("objectives")`. Unknown keys are errors that name the nearest key.

The range of a number is declared on its field: `steps: Annotated[int, Bounds(ge=1)]`.

A field declared with `incidental()` may change when a run is resumed: it alters how fast or how far a run goes, and not
what its numbers mean. All other fields are the run's identity, whose digest guards the folder.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

from harness.core import registry
from harness.core.errors import ConfigError, UsageError, nearest
from harness.core.recipes import lineage

T = TypeVar("T")
Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """The plug-in that a config chose: its kind, its id and its parsed options."""

    kind: str
    id: str
    options: Any

    def build(self) -> Any:
        return registry.build(self.kind, self.id, self.options)


def plugin(
    kind_name: str,
    *,
    default: Any = None,
    is_incidental: bool = False,
    is_optional: bool = False,
    otherwise: Any = dataclasses.MISSING,
) -> Any:
    """Declare a schema field whose TOML table names a plug-in of that kind, or several in a list.

    `default` is an id or a list of ids. Without one the key is required, unless `otherwise` is the value of the field
    without it. With `is_optional` a default without options is left out of a written config and of the identity.
    """
    metadata = {"plugin": kind_name, "default": default, "incidental": is_incidental}
    if is_optional:
        metadata["optional"] = True
    if isinstance(default, str):  # for a schema that is filled in by code, without a config
        return dataclasses.field(metadata=metadata, default_factory=lambda: parse_plugin(kind_name, default))
    return dataclasses.field(metadata=metadata, default=otherwise)


def sections() -> Any:
    """Declare a schema field that is a table of named tables of one schema: `Mapping[str, Schema]`."""
    return dataclasses.field(default_factory=dict, metadata={"sections": True})


def optional_section(schema: Any) -> Any:
    """Declare a schema field that is a table, left out of a written config and of the identity if it sets nothing."""
    return dataclasses.field(default_factory=schema, metadata={"optional": True})


def incidental(**field_options: Any) -> Any:
    """Declare a schema field outside the run's identity: a run may be resumed with another value."""
    return dataclasses.field(metadata={"incidental": True}, **field_options)


def read_toml(path: Path) -> Tree:
    """Return the tree of a config file, merged over the files that it extends."""
    return merge(*(file.tree for file in reversed(lineage(path))))


def parse_override(text: str) -> Tree:
    """Parse `section.key=value` into a tree. The value is TOML; a bare word is a string."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"--set takes section.key=value, not {text!r}")
    parsed = _parse_override_value(key, value)
    for part in reversed(parts):
        parsed = {part: parsed}
    return cast(Tree, parsed)


def _parse_override_value(key: str, value: str) -> Any:
    try:
        document = tomllib.loads(f"v = {value}")
    except tomllib.TOMLDecodeError:
        document = {} if any(c in value for c in "\"'[]{}\n") else {"v": value.strip()}
    if list(document) != ["v"]:  # not TOML, or more than one value
        raise ConfigError(f"--set {key}: {value!r} is not a TOML value")
    return document["v"]


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Merge trees, later ones over earlier ones, table by table.

    A table that names another plug-in drops the options of the former one. A plug-in named by its id alone is a table
    with that id, so options can be added to it.
    """
    merged: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            former = merged.get(key)
            if isinstance(value, Mapping) and isinstance(former, str):
                former = {"id": former}
            if isinstance(value, Mapping) and isinstance(former, Mapping):
                changed = "id" in value and "id" in former and value["id"] != former["id"]
                merged[key] = merge(value) if changed else merge(former, value)
            else:
                merged[key] = merge(value) if isinstance(value, Mapping) else value
    return merged


def parse(schema: type[T], tree: Mapping[str, Any]) -> T:
    """Parse a tree into a `schema`. Each error is one line with the place and the nearest key."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"a table is expected, not {tree!r}")
    return cast(T, _parse_table(schema, tree, ""))


def _parse_table(schema: Any, tree: Mapping[str, Any], where: str, removed: Mapping[str, str] | None = None) -> Any:
    """Parse one table. `removed` are keys of earlier versions, each with its replacement."""
    fields = {field.name: field for field in dataclasses.fields(schema)}
    types = _types_of(schema)
    for key in tree:
        if key not in fields and removed is not None and key in removed:
            raise ConfigError(f"{_at(where, key)!r} is not an option any more: {removed[key]}")
        if key not in fields:
            raise ConfigError(f"unknown key {_at(where, key)!r}; {nearest(key, fields)}")
    defaults = {name: d for name, field in fields.items() if (d := field.metadata.get("default")) is not None}
    given = {**defaults, **tree}
    values = {key: _parse_value(fields[key], types[key], value, _at(where, key)) for key, value in given.items()}
    missing = [name for name, field in fields.items() if name not in values and is_required(field)]
    if missing:
        raise ConfigError(
            f"the key {_at(where, missing[0])!r} is missing; give it in the config file or on the command line"
        )
    try:
        return schema(**values)
    except ValueError as error:  # a check in __post_init__
        raise ConfigError(f"{where if where else 'config'}: {error}") from None


def unknown_keys(schema: Any, tree: Mapping[str, Any], where: str = "") -> list[str]:
    """List every key of a stored config that `schema` does not have, as a later version that removed it leaves it."""
    fields = {field.name: field for field in dataclasses.fields(schema)}
    types, found = _types_of(schema), list[str]()
    for key, value in tree.items():
        at = _at(where, key)
        if key not in fields:
            found.append(at)
        elif "plugin" in fields[key].metadata:
            kind_name, items = fields[key].metadata["plugin"], value if isinstance(value, list) else [value]
            for item in items:
                found += _unknown_options(kind_name, item, at)
        elif "sections" in fields[key].metadata:
            for name, item in value.items():
                found += unknown_keys(get_args(types[key])[1], item, _at(at, name))
        elif dataclasses.is_dataclass(types[key]):
            found += unknown_keys(types[key], value, at)
    return found


def _unknown_options(kind_name: str, table: Any, where: str) -> list[str]:
    if not isinstance(table, Mapping):
        return []
    try:
        plugin_class = registry.load(kind_name, table["id"])
    except UsageError:  # the plug-in itself is unknown, which `parse` reports
        return []
    return unknown_keys(plugin_class.Config, {key: item for key, item in table.items() if key != "id"}, where)


def _parse_value(field: dataclasses.Field[Any], kind: Any, value: Any, where: str) -> Any:
    if "plugin" in field.metadata:
        return _parse_plugins(field.metadata, value, where, are_several=get_origin(kind) is tuple)
    if "sections" in field.metadata:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where!r} is a table of tables, such as [{where}.name], not {value!r}")
        return {name: _parse_section(get_args(kind)[1], item, _at(where, name)) for name, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _parse_section(kind, value, where)
    return _parse_leaf(kind, value, where)


def _parse_section(schema: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        keys = ", ".join(_at(where, field.name) for field in dataclasses.fields(schema))
        raise ConfigError(f"{where!r} is a table, not {value!r}: set its keys ({keys})")
    return _parse_table(schema, value, where)


def _parse_plugins(
    metadata: Mapping[str, Any], value: Any, where: str, *, are_several: bool
) -> PluginChoice | tuple[PluginChoice, ...]:
    kind_name, default = metadata["plugin"], metadata["default"]
    if not are_several:
        # Options without an id are those of the default.
        return parse_plugin(kind_name, merge({"": default}, {"": value})[""], where)
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where!r} is a list of ids or tables, such as [{_example_id(kind_name)!r}], not {value!r}")
    return tuple(parse_plugin(kind_name, item, where) for item in value)


def _parse_leaf(kind: Any, value: Any, where: str) -> Any:
    import pydantic

    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where!r}: a finite number is expected, not {value}")
    # JSON mode of strictness: a list may become a tuple, but "1" never becomes 1.
    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where!r}{_problem(error.errors()[0], kind)}, not {_shown(value)}") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where!r}: {error}, not {_shown(value)}") from None


_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


_EXPECTED = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "a whole number, such as 8,"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number, such as 0.5,"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": 'a text, such as "a",',
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
}


def _list_example(error: Mapping[str, Any], kind: Any) -> str:
    if _EXPECTED[error["type"]] != "a list":
        return ""
    return ", such as [1, 4]" if "str" not in str(kind) else ', such as ["a", "b"]'


def _shown(value: Any) -> str:
    """Return a value as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _problem(error: Mapping[str, Any], kind: Any) -> str:
    """Return the rest of a message that begins with the key."""
    if error["type"] in _EXPECTED:
        return f": {_EXPECTED[error['type']]} is expected{_list_example(error, kind)}"
    if error["type"] not in _BOUNDS:
        return f": {error['msg'][:1].lower()}{error['msg'][1:]}"
    notes = "".join(f" ({note})" for note in _notes(kind))
    ((_, bound),) = error["ctx"].items()
    return f" must be {_BOUNDS[error['type']]} {bound:g}{notes}"


def _notes(kind: Any) -> Iterator[str]:
    """Yield the notes in a field's type for its reader, such as `Annotated[int, Bounds(ge=0), "0 is off"]`."""
    yield from (note for note in getattr(kind, "__metadata__", ()) if isinstance(note, str))
    for part in get_args(kind):
        yield from _notes(part)


def parse_plugin(kind_name: str, value: str | Mapping[str, Any], where: str = "") -> PluginChoice:
    """Parse a plug-in's id, or a table of its id and options."""
    table = {"id": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not isinstance(table.get("id"), str):
        raise ConfigError(f"{where!r} needs an id, such as id = {_example_id(kind_name)!r}")
    options = {key: item for key, item in table.items() if key != "id"}
    plugin_class = registry.load(kind_name, table["id"])
    parsed = _parse_table(plugin_class.Config, options, where, plugin_class.removed_options)
    return PluginChoice(kind_name, table["id"], parsed)


def _example_id(kind_name: str) -> str:
    return min(registry.entries(kind_name), default="...")


@functools.cache
def _types_of(schema: Any) -> Mapping[str, Any]:
    import typing

    return typing.get_type_hints(schema, include_extras=True)


def default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def is_required(field: dataclasses.Field[Any]) -> bool:
    has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return not has_default and field.metadata.get("default") is None


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


# --- writing, identity ------------------------------------------------------------------------------------------


def to_tree(config: Any, *, identity_only: bool = False) -> Any:
    """Return the resolved config as plain values, without keys that are None; optionally only its identity."""
    if isinstance(config, PluginChoice):
        return {"id": config.id, **to_tree(config.options, identity_only=identity_only)}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = [field for field in dataclasses.fields(config) if not (identity_only and _is_incidental(field))]
        trees = {field.name: _field_tree(field, getattr(config, field.name), identity_only) for field in fields}
        return {name: tree for name, tree in trees.items() if tree is not None}
    if isinstance(config, (tuple, list)):
        return [to_tree(item, identity_only=identity_only) for item in config]
    return config


def label_of(chosen: PluginChoice) -> str:
    """Return the id with the options that are not at their defaults: `legacy_math_verify(variant="lm-eval")`."""
    options: Mapping[str, Any] = to_tree(chosen.options, identity_only=True)
    defaults = {field.name: to_tree(default_of(field)) for field in dataclasses.fields(chosen.options)}
    changed = [f"{key}={json.dumps(value)}" for key, value in options.items() if value != defaults[key]]
    return f"{chosen.id}({', '.join(changed)})" if changed else chosen.id


def _is_incidental(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("incidental", False))


def _field_tree(field: dataclasses.Field[Any], value: Any, identity_only: bool) -> Any:
    """Return a field as plain values; None for one to leave out, such as a section without settings."""
    if "sections" not in field.metadata:
        tree = to_tree(value, identity_only=identity_only)
        is_default = not tree or ("plugin" in field.metadata and tree == {"id": field.metadata["default"]})
        return None if "optional" in field.metadata and is_default else tree
    trees = {name: to_tree(item, identity_only=identity_only) for name, item in value.items()}
    not_empty = {name: tree for name, tree in trees.items() if tree}
    return not_empty if not_empty else None


def to_toml(config: Any) -> str:
    import tomli_w

    text: str = tomli_w.dumps(to_tree(config))
    return text


def digest(tree: Mapping[str, Any]) -> str:
    """Return a short digest of an identity tree, the same for the same values in any order."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, where: str = "") -> Sequence[str]:
    """Return the keys in which two trees differ, with both values, for a message."""
    return list(_differences(old, new, where))


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), _at(where, key))
    elif old != new:
        there, now = ("not set" if value is None else _shown(value) for value in (old, new))
        yield f"{where}: {there} there, {now} now"
