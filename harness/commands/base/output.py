"""Print results on stdout: text or tables, or JSON with --json. What a terminal would obey is escaped."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.commands.base.arguments import JsonArguments
from harness.core.config import to_toml, to_tree
from harness.core.text import printable
from harness.core.types import Table
from harness.reports.render import to_plain, to_terminal

MOST_REASONS = 3


def print_result(args: JsonArguments, value: object, text: object) -> None:
    """Print `value` with --json, else `text`."""
    print(json.dumps(value, indent=1) if args.json else printable(str(text)))


def print_remark(text: str) -> None:
    """Print a line on stderr that is not a part of the result."""
    print(f"harness: {printable(text)}", file=sys.stderr)


def print_tables(args: JsonArguments, tables: Sequence[Table]) -> None:
    print_result(args, [to_plain(table) for table in tables], "\n\n".join(map(to_terminal, tables)))


def reasons_text(reasons: Mapping[str, int]) -> str:
    """Return the most frequent reasons why completions are ungraded, with their numbers."""
    first = list(reasons.items())[:MOST_REASONS]
    more = f"; and {len(reasons) - MOST_REASONS} other reasons" if len(reasons) > MOST_REASONS else ""
    return "; ".join(f"{count} {reason}" for reason, count in first) + more


def print_path(args: JsonArguments, label: str, path: Path) -> None:
    """Print where something was written; with --json the results are all that is printed."""
    if not args.json:
        print(printable(f"{label}: {path}"))


def print_config(
    args: JsonArguments, config: Any, folder: Path, facts: Mapping[str, Any] = {}, comments: Sequence[str] = ()
) -> None:
    """Print the resolved config. The text stays a TOML file: the comments are lines that begin with #."""
    text = "\n".join([f"# would run in {folder}", *comments, to_toml(config)])
    print_result(args, {"folder": str(folder), "config": to_tree(config), **facts}, text)
