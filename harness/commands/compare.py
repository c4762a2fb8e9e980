"""Compare two evaluations, problem by problem."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json
from harness.commands.base.output import print_tables
from harness.core.errors import UsageError
from harness.reports.compare import compare

EXAMPLE = "harness compare runs/base runs/trained"


class Arguments(JsonArguments):
    runs: list[Path]
    against: list[Path] | None
    metric: str | None
    grader: str | None
    anyway: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="two run folders; differences are the second less the first")
    parser.add_argument("--against", nargs="+", type=Path, help="several per side: these less the ones before")
    parser.add_argument("--metric", help="only one metric, such as pass@8 (default: all that the runs have)")
    parser.add_argument("--grader", help="by its verdicts, where the runs hold them (`harness grade`)")
    parser.add_argument("--anyway", action="store_true", help="though they were asked, drawn or graded differently")
    add_json(parser)


def run(args: Arguments) -> int:
    first, second = _sides(args)
    print_tables(args, [compare(first, second, metric=args.metric, grader=args.grader, anyway=args.anyway)])
    return DONE


def _sides(args: Arguments) -> tuple[list[Path], list[Path]]:
    if args.against is not None:
        return args.runs, args.against
    if len(args.runs) != 2:
        raise UsageError("name two runs, or several of one kind and those of the other after --against")
    return args.runs[:1], args.runs[1:]
