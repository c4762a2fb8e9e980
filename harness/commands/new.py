"""Write a package with a plug-in of your own: its code, its entry point and a test.

The package works as it is written. Install it, then change it.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import sys
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json, one_of
from harness.commands.base.output import print_result
from harness.core.errors import UsageError
from harness.core.registry import KINDS, Kind, entries
from harness.runs.jsonl import disk_error

EXAMPLE = "harness new objective my_loss"
SKELETONS = Path(__file__).parent / "skeletons"
NOUNS = {kind.noun: name for name, kind in KINDS.items() if name != "backends"}
USES = {
    "tasks": "harness eval countdown-tiny --tasks {id} --n 2 --limit 4",
    "engines": "harness eval countdown-tiny --tasks countdown --engine {id} --n 2 --limit 4",
    "graders": "harness grade RUN --grader {id}",
    "metrics": "harness eval countdown-tiny --tasks countdown --metrics {id} --n 2 --limit 4",
    "advantages": "harness train countdown-grpo --set objective.advantage={id}",
    "objectives": "harness train countdown-grpo --set objective.id={id} --set loop.minibatches_per_step=1",
    "tables": "harness report RUN --table {id}",
}


class Arguments(JsonArguments):
    kind: str
    name: str
    out: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", **one_of(tuple(NOUNS)))
    parser.add_argument("name", help="its id, and the name of the package: lower-case letters, digits and _")
    parser.add_argument("--out", type=Path, help="the folder of the package, which must not exist (default: NAME)")
    add_json(parser)


def run(args: Arguments) -> int:
    folder = args.out if args.out is not None else Path(args.name)
    files = write_package(NOUNS[args.kind], args.name, folder)
    print_result(args, {"files": list(map(str, files))}, "\n".join(_lines(NOUNS[args.kind], args.name, folder, files)))
    return DONE


def write_package(kind_name: str, name: str, folder: Path) -> list[Path]:
    """Write the skeleton of a plug-in into a new folder. Nothing that exists is touched."""
    _check_name(kind_name, name)
    texts = {path: _filled(template, KINDS[kind_name], name) for path, template in _files(kind_name, name).items()}
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} exists, and nothing is written over it; choose another name or --out") from None
    except OSError as error:
        raise disk_error(folder, error) from error
    for path, text in texts.items():
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in texts]


def _check_name(kind_name: str, name: str) -> None:
    noun = KINDS[kind_name].noun
    if not name.isidentifier() or not name.isascii() or name != name.lower() or keyword.iskeyword(name):
        raise UsageError(f"{name!r} can't be a package's name; use lower-case letters, digits and _, as in my_{noun}")
    if name in entries(kind_name):
        raise UsageError(f"the {noun} {name!r} exists already (`harness show {kind_name}/{name}`); choose another name")
    spec = importlib.util.find_spec(name)
    if name in sys.stdlib_module_names or (spec is not None and spec.origin is not None):  # a mere folder has none
        raise UsageError(
            f"the Python module {name!r} exists already, and the package would hide it; choose another name"
        )


def _files(kind_name: str, name: str) -> dict[str, Path]:
    """Return the template of each file of the package."""
    return {
        "pyproject.toml": SKELETONS / "pyproject.toml.txt",
        f"{name}.py": SKELETONS / f"{kind_name}.py.txt",
        f"test_{name}.py": SKELETONS / f"test_{kind_name}.py.txt",
    }


def _filled(template: Path, kind: Kind, name: str) -> str:
    words = {
        "{{name}}": name,
        "{{Class}}": "".join(part.capitalize() for part in name.split("_")),
        "{{noun}}": kind.noun,
        "{{group}}": kind.group,
    }
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _lines(kind_name: str, name: str, folder: Path, files: list[Path]) -> list[str]:
    return [
        *map(str, files),
        "",
        "install it, run its test, use it:",
        f"  pip install -e ./{folder}" if not folder.is_absolute() else f"  pip install -e {folder}",
        f"  pytest {folder}",
        f"  {USES[kind_name].format(id=name)}",
        f"or use the file without installing it, by its path: {folder / name}.py",
    ]
