"""Arguments that several commands share: parser options, the attributes they set, and conversions to settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.config import Tree, merge, parse_override, parse_plugin
from harness.core.errors import UsageError, nearest

SPLITS = ("train", "validation", "test")


class JsonArguments:
    json: bool


class OutputArguments(JsonArguments):
    quiet: bool


class RunArguments(OutputArguments):
    set: list[str]
    strict_data: bool
    out: Path | None
    dry_run: bool


# --- options ----------------------------------------------------------------------------------------------------


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_json(parser)


def add_set(parser: argparse.ArgumentParser, meaning: str = "an option of the task") -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=meaning)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    add_set(parser, "section.key=value, a TOML value")
    parser.add_argument("--strict-data", action="store_true", help="refuse data that differ from their fingerprints")
    parser.add_argument("--out", type=Path, help="the run folder (default: runs/ and a name derived from the config)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    add_output_options(parser)


def add_split(parser: argparse.ArgumentParser, default: str | None = "test", **options: Any) -> None:
    parser.add_argument("--split", default=default, **one_of(SPLITS), **options)


# --- types ------------------------------------------------------------------------------------------------------


def one_of(names: Sequence[str]) -> dict[str, Any]:
    """Return keywords of `add_argument` for a choice; a wrong value is refused with the nearest name."""

    def choice(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r}; {nearest(text, names)}")
        return text

    return {"choices": names, "type": choice}


def integer(text: str) -> int:
    """Parse a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a whole number is expected, such as 16, not {text!r}") from None


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = integer(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def decimal(text: str) -> float:
    """Parse a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number is expected, such as 0.6, not {text!r}") from None


def decimals(text: str) -> list[float]:
    """Parse numbers separated by commas."""
    return [decimal(number) for number in text.split(",")]


# --- to settings ------------------------------------------------------------------------------------------------


def parse_sets(overrides: Sequence[str]) -> Tree:
    """Merge all of --set into one tree, so that an id may come before or after its options."""
    return merge(*map(parse_override, overrides))


def split_names(text: str | None) -> list[str] | None:
    """Split a list separated by commas; None stays None."""
    return [name.strip() for name in text.split(",")] if text is not None else None


def plugin_settings(field: str, plugin_id: str | None) -> Tree:
    """Return the settings that choose a plug-in; none without an id."""
    return {field: {"id": plugin_id}} if plugin_id is not None else {}


def run_label(text: str) -> tuple[str, str]:
    """Return the run and the name of RUN=NAME."""
    run, sign, name = text.rpartition("=")
    if not sign or not run or not name.strip():
        raise UsageError(f"--label is RUN=NAME, such as runs/a=GRPO, not {text!r}")
    return run, name.strip()


def given(**settings: Any) -> Tree:
    """Return the settings that were given, those that are not None."""
    return {key: value for key, value in settings.items() if value is not None}


def strictness(args: RunArguments) -> Tree:
    return {"strict_data": True} if args.strict_data else {}


def build_task(task_id: str, settings: Mapping[str, Any]) -> Any:
    """Build a task with the options given by --set."""
    return parse_plugin("tasks", {"id": task_id, **settings}).build()
