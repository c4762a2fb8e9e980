"""Import completions that another tool made, as a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from harness.commands import DONE, UNGRADED
from harness.commands.base.arguments import (
    OutputArguments,
    add_output_options,
    add_set,
    add_split,
    given,
    one_of,
    parse_sets,
    plugin_settings,
    positive,
    split_names,
)
from harness.commands.base.output import print_path, print_remark, print_tables
from harness.core.config import Tree, merge
from harness.core.errors import UsageError
from harness.core.progress import Progress
from harness.interop.imports.importer import Imported, import_completions
from harness.interop.imports.matching import Key
from harness.interop.imports.registry import FORMATS
from harness.interop.imports.run_files import ImportRequest
from harness.reports.report import tables_of

EXAMPLE = "harness import outputs.jsonl --tasks aime24 --model my-model --out runs/mine"


class Arguments(OutputArguments):
    files: list[Path]
    tasks: str | None
    out: Path
    format: str | None
    map: list[str]
    match: Key
    model: str | None
    grader: str | None
    split: str
    n: int | None
    limit: int | None
    problem: str | None
    allow_missing: bool
    skip_unmatched: bool
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="files of one format, by one model")
    parser.add_argument("--tasks", help="the tasks that the completions are for: ids, separated by commas")
    parser.add_argument("--out", required=True, type=Path, help="the run folder; the same command continues in it")
    parser.add_argument("--format", **one_of(list(FORMATS)), help="if the content does not decide")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="OURS=COLUMN",
        help="columns of plain rows: completion=output,...",
    )
    keys = one_of(get_args(Key))
    parser.add_argument("--match", default="auto", **keys, help="find problems only by this (default: auto)")
    parser.add_argument("--model", help="the name of the model, where the files do not have it")
    parser.add_argument("--grader", help="what judges (default: each task's own); its options: --set grader.KEY=VALUE")
    add_split(parser)
    parser.add_argument("--n", type=positive, help="keep the first samples of each problem (default: all)")
    parser.add_argument("--limit", type=positive, help="only the first problems")
    parser.add_argument("--problem", help="only these: ids, or numbers counted from 0, separated by commas")
    parser.add_argument("--allow-missing", action="store_true", help="accept problems without completions, as ungraded")
    parser.add_argument("--skip-unmatched", action="store_true", help="leave out rows that belong to no problem")
    add_set(parser, "section.key=value of the evaluation, such as sampling.temperature=0.6 where it is known")
    add_output_options(parser)


def run(args: Arguments) -> int:
    settings = merge(_flags(args), parse_sets(args.set))
    if "tasks" not in settings:
        raise UsageError("name the tasks that the completions are for, such as --tasks aime24 or --tasks mine.jsonl")
    request = ImportRequest(
        files=args.files,
        out=args.out,
        settings=settings,
        format=args.format,
        columns=_columns(args.map),
        by=args.match,
        n=args.n,
        allow_missing=args.allow_missing,
        skip_unmatched=args.skip_unmatched,
    )
    imported = import_completions(request, Progress(quiet=args.quiet))
    print_tables(args, tables_of([args.out], ["results"]))
    print_path(args, "run", args.out)
    return _conclude(imported)


def _flags(args: Arguments) -> Tree:
    return {
        **given(tasks=split_names(args.tasks), problems=split_names(args.problem), split=args.split, limit=args.limit),
        **plugin_settings("grader", args.grader),
        **given(model={"path": args.model} if args.model is not None else None),
    }


def _columns(options: list[str]) -> dict[str, str]:
    """Return the columns of --map, by our names."""
    pairs = [pair.partition("=") for option in options for pair in option.split(",")]
    for ours, equals, column in pairs:
        if not equals or not ours.strip() or not column.strip():
            raise UsageError(f"--map takes OURS=COLUMN, such as completion=output, not {ours + equals + column!r}")
    return {ours.strip(): column.strip() for ours, _, column in pairs}


def _conclude(imported: Imported) -> int:
    """Print what the files do not say, and return the exit code."""
    done = imported.evaluation
    lines = [f"format {imported.format}; not in the files: {', '.join(imported.unknown)}"]
    if imported.n_skipped:
        lines.append(f"{imported.n_skipped} completions were left out, as no chosen problem is theirs")
    if done.n_failed:
        lines.append(f"{done.n_failed} completions are missing, and count as ungraded")
    for line in lines:
        print_remark(line)
    too_many = done.share_ungraded > done.run.config()["max_ungraded"]
    return UNGRADED if too_many else DONE
