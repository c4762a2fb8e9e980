"""Parse tests of programs from the formats in which they are published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.errors import DataError
from harness.graders.code.reference import Origin, ProgramTest


def tests_of(published: Any, origin: Origin, where: str) -> tuple[ProgramTest, ...]:
    """Parse any format in use: JSON text or its value; a list of tests, or lists of inputs and outputs."""
    try:
        value = json.loads(published) if isinstance(published, str) else published
        pairs = [
            *(zip(value["inputs"], value["outputs"], strict=True) if isinstance(value, Mapping) else _pairs(value))
        ]
        if any(field is None for pair in pairs for field in pair) and function_name_of(value) is None:
            raise ValueError("null where the text of stdin or stdout is expected")
        return tuple(ProgramTest(_text(given), _text(expected), origin) for given, expected in pairs)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"the tests of {where} can't be read ({type(error).__name__}: {error})") from error


def function_name_of(published: Any) -> str | None:
    """Return the name of the function under test, or None for a program that reads stdin."""
    value = json.loads(published) if isinstance(published, str) else published
    if isinstance(value, Mapping):
        name = value.get("fn_name")
    else:
        first = value[0] if value else {}
        metadata = first.get("metadata")
        name = first.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, Mapping) else None)
    return name if isinstance(name, str) and name else None


def _pairs(tests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, Any]]:
    return ((test["input"], test["output"]) for test in tests)


def _text(value: Any) -> str:
    """Return a text unchanged, a list of lines joined, and any other value as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return json.dumps(value)
