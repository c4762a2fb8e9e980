"""Markdown building blocks of the generated pages."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def page(title: str, *parts: str) -> str:
    """Return a page: the title, then the parts that are not empty."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"


def section(title: str, *parts: str, level: int = 2) -> str:
    """Return a section with its heading, or nothing when all parts are empty."""
    kept = [part for part in parts if part]
    return "\n\n".join([f"{'#' * level} {title}", *kept]) if kept else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, or nothing when there are no rows."""
    lines = ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows]
    if not lines:
        return ""
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *lines])


def cell(text: str) -> str:
    """Return the text on one line, with bars that do not end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: Any) -> str:
    return f"`{text}`"


def escaped(text: str) -> str:
    """Return the text with what Markdown would take for HTML or emphasis escaped, code spans left alone."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        for mark in "\\<*_":
            parts[number] = parts[number].replace(mark, "\\" + mark)
    return "`".join(parts)


def block(text: str, language: str = "text") -> str:
    """Return a fenced block. The fence is longer than any run of backticks in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def collapsed(title: str, body: str) -> str:
    """Return a block that the reader unfolds."""
    return f'??? note "{title}"\n\n' + "\n".join(f"    {line}".rstrip() for line in body.splitlines())


def toml_value(value: Any) -> str:
    """Return a default as one would write it in TOML; `unset` for None."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, int):
        return str(value)
    return json.dumps(value) if isinstance(value, str) else code(value)


def docstring_of(module: Any) -> tuple[str, str]:
    """Return the first paragraph of a module's docstring and the rest, each as Markdown."""
    text = inspect.getdoc(module) or ""
    summary, _, rest = text.partition("\n\n")
    return " ".join(summary.split()), rest
