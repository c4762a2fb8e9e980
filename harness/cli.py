"""The command `harness`: finds the subcommand, parses its arguments, runs it, and maps errors to exit codes.

Exit codes: 0 done, 1 the run failed, 2 the request is wrong (nothing was written), 3 done, but too many completions
could not be graded, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any, NoReturn, Protocol

import harness
from harness.commands import FAILED, INTERRUPTED
from harness.core.errors import HarnessError, UnknownNameError, UsageError
from harness.core.text import printable

FOLDER = Path(__file__).resolve().parent / "commands"
ORDER = (
    *("train", "eval", "import", "grade", "audit", "compare", "report", "view", "plot"),
    *("export", "demo", "list", "show", "fetch"),
)
"""The order of commands in the help; the others follow by name."""


class Command(Protocol):
    """The module of a command, see `harness.commands`."""

    EXAMPLE: str
    Arguments: type

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: Any) -> int: ...


def main(arguments: Sequence[str] | None = None) -> int:
    # Idle threads that spin take the cores from one another. It must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = sys.argv[1:] if arguments is None else list(arguments)
    known = commands()
    if not given or given[0] not in known:
        _refuse(given, known)
    from harness.core.registry import refuse_lost_links  # only now, so that `harness --help` is quick

    try:
        refuse_lost_links()
        command = load_command(given[0])
        args = command_parser(given[0], command).parse_args(given[1:], command.Arguments())
        status = command.run(args)
        sys.stdout.flush()  # so that a closed pipe is noticed here
    except HarnessError as error:
        print(f"harness: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("harness: interrupted; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has gone, as in `harness list tasks | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def commands() -> Mapping[str, str]:
    """Return every command's name with one line of help, read from its file without importing it."""
    files = (path for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__")
    names = {path.stem.removesuffix("_"): path for path in files}  # import_.py, as `import` is a keyword of Python
    ordered = sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return {name: _first_line(names[name]) for name in ordered}


def load_command(name: str) -> Command:
    module: Any = importlib.import_module(
        f"harness.commands.{name}_" if iskeyword(name) else f"harness.commands.{name}"
    )
    return module  # type: ignore[no-any-return]


def command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    epilog = f"example: {command.EXAMPLE}"
    parser = _Parser(prog=f"harness {name}", description=commands()[name], epilog=epilog)
    command.add_arguments(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one line, like any other wrong request, and never abbreviates."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # First, since an unknown option may be a misspelling of one that is required.
        for given in itertools.takewhile(lambda text: text != "--", args if args is not None else ()):
            name = given.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                known = [option for option in self._option_string_actions if option.startswith("--")]
                self.error(str(UnknownNameError("option", name, known)))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"harness: {message} (see `{self.prog} --help`)\n")


def _refuse(arguments: Sequence[str], known: Mapping[str, str]) -> NoReturn:
    """Exit on arguments that do not begin with a command: --help, --version or wrong usage."""
    parser = _Parser(
        prog="harness",
        description="Train a language model with FlowRL or a rival, evaluate it, and get tables that can be believed.",
        epilog="Begin with `harness demo`. Each command has --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"harness {harness.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, purpose in known.items():
        subparsers.add_parser(name, help=purpose)
    if arguments and not arguments[0].startswith("-"):
        parser.error(str(UnknownNameError("command", arguments[0], known)))
    parser.parse_args(arguments[:1])  # exits at any option
    parser.error("the following arguments are required: COMMAND")


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().strip().strip('"').rstrip(".")
