"""Reference page of the command line, from its argument parsers."""

from __future__ import annotations

import argparse

from docs_site.markdown import block, cell, code, page, section, table
from harness.cli import command_parser, commands, load_command

INTRODUCTION = """
Results go to stdout, progress and errors to stderr. `--json` prints the result for machines. Every command ends with
one of the [exit codes](errors.md#exit-codes).
"""


def commands_page() -> str:
    parsers = {name: command_parser(name, load_command(name)) for name in commands()}
    overview = table(
        ["command", "purpose"],
        ([f"[`harness {name}`](#{name})", cell(parser.description or "")] for name, parser in parsers.items()),
    )
    return page("Commands", INTRODUCTION.strip(), overview, *(_command(*item) for item in parsers.items()))


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    return section(
        f"{code(f'harness {name}')} {{ #{name} }}",
        _sentence(parser.description or ""),
        block((parser.epilog or "").removeprefix("example: "), "bash"),
        table(["argument", "meaning"], map(_argument, _arguments(parser))),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def _argument(action: argparse.Action) -> list[str]:
    name = ", ".join(action.option_strings) if action.option_strings else _metavar(action)
    if action.option_strings and action.nargs != 0:
        name += f" {_metavar(action)}"
    if action.nargs in ("+", "*"):
        name += " ..."
    meaning = (action.help or "") % {"default": action.default} if action.help else ""
    if action.choices is not None:
        meaning = f"{meaning} ({', '.join(map(code, action.choices))})".strip()
    return [code(name), meaning]


def _metavar(action: argparse.Action) -> str:
    if action.metavar is not None:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    return action.dest.upper()
