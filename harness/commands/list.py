"""List the plug-ins of a kind, the presets or the recipes, one id per line."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json, one_of
from harness.commands.base.output import print_result
from harness.core.recipes import methods_of_settings, recipe_titles
from harness.core.registry import descriptions
from harness.evaluation import presets
from harness.reports.render import terminal_width

EXAMPLE = "harness list tasks"
KINDS = ("tasks", "presets", "engines", "graders", "metrics", "advantages", "objectives", "backends", "tables")


class Arguments(JsonArguments):
    kind: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", **one_of((*KINDS, "recipes")))
    add_json(parser)


def run(args: Arguments) -> int:
    found = _descriptions(args.kind)
    width = max(map(len, found), default=0)
    lines = [_wrapped(f"{plugin_id:{width}}  {description}", width + 2) for plugin_id, description in found.items()]
    print_result(args, found, "\n".join(lines))
    return DONE


def _wrapped(line: str, indent: int) -> str:
    """Wrap a line on a terminal, below its description; elsewhere one line is one id."""
    if not sys.stdout.isatty():
        return line
    return textwrap.fill(line, terminal_width(), subsequent_indent=" " * indent, break_long_words=False)


def _descriptions(kind: str) -> Mapping[str, str]:
    """Return the ids of a kind in order, each with one line about it."""
    if kind == "presets":
        return presets.titles()
    if kind == "recipes":
        return recipe_titles()
    if kind != "objectives":
        return descriptions(kind)
    methods = {name: method.description for name, method in methods_of_settings().items()}
    return dict(sorted({**methods, **descriptions(kind)}.items()))
