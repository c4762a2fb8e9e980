"""Settings as the code declares them: fields of dataclasses with defaults, allowed values and docstrings."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docs_site.markdown import code, toml_value
from harness.core import config as configs
from harness.core.types import Bounds


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a config."""

    key: str
    default: str
    values: str
    meaning: str
    is_mutable: bool
    """Whether a run may be resumed with another value."""


def settings_of(schema: type, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of one dataclass, sections excluded."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        if is_section(field, hints[field.name]):
            continue
        yield Setting(
            key=prefix + field.name,
            default=_default(field),
            values=_values(field, hints[field.name]),
            meaning=field_docstrings(schema).get(field.name, ""),
            is_mutable=configs._is_incidental(field),
        )


def is_section(field: dataclasses.Field[Any], hint: Any) -> bool:
    """Return whether a field is a table of its own rather than a key."""
    return "sections" in field.metadata or (dataclasses.is_dataclass(hint) and "plugin" not in field.metadata)


@functools.cache
def field_docstrings(schema: type) -> Mapping[str, str]:
    """Return the string literal under each field, by field name, inherited fields included."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _own_docstrings(base)
    return found


def _own_docstrings(schema: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        before.target.id: " ".join(inspect.cleandoc(after.value.value).split())
        for before, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


def _default(field: dataclasses.Field[Any]) -> str:
    default = field.metadata.get("default")
    if default is not None:
        return code(toml_value(default))
    if field.default_factory is not dataclasses.MISSING:
        return code(toml_value(field.default_factory()))
    return "required" if field.default is dataclasses.MISSING else _shown(field.default)


def _shown(value: Any) -> str:
    return "unset" if value is None else code(toml_value(value))


def _values(field: dataclasses.Field[Any], hint: Any) -> str:
    """Return the allowed values: choices by name, else the type."""
    if "plugin" in field.metadata:
        kind = field.metadata["plugin"]
        return (
            f"a list of [{kind}]({kind}.md)" if typing.get_origin(hint) is tuple else f"one of the [{kind}]({kind}.md)"
        )
    return _type(hint)


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [str(note) for note in hint.__metadata__ if isinstance(note, Bounds)]
        return ", ".join([_type(arguments[0]), *bounds])
    if origin is typing.Literal:
        return ", ".join(code(toml_value(value)) for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    names = {str: "text", bool: "`true`, `false`", int: "integer", float: "number"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def module_of(plugin: type) -> Any:
    return sys.modules[plugin.__module__]
