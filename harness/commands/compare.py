"""Compare two evaluations, problem by problem."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json
from harness.commands.base.output import print_tables
from harness.core.errors import UsageError
from harness.core.types import Table
from harness.reports.compare import check_detect, compare
from harness.reports.plan import parse_metric, plan

EXAMPLE = "harness compare runs/base runs/trained"
DETECT, POWER = 0.02, 0.8


class Arguments(JsonArguments):
    runs: list[Path]
    against: list[Path] | None
    metric: str | None
    grader: str | None
    anyway: bool
    plan: bool
    detect: float | None
    power: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="two run folders; differences are the second less the first")
    parser.add_argument("--against", nargs="+", type=Path, help="several per side: these less the ones before")
    parser.add_argument("--metric", help="only one metric, such as pass@8 (default: all that the runs have)")
    parser.add_argument("--grader", help="by its verdicts, where the runs hold them (`harness grade`)")
    parser.add_argument("--anyway", action="store_true", help="though they were asked, drawn or graded differently")
    parser.add_argument("--plan", action="store_true", help="how many samples, problems and runs tell the two apart")
    parser.add_argument(
        "--detect", type=float, help="the difference to find: --plan is for it (default: 0.02), other rows are marked"
    )
    parser.add_argument("--power", type=float, help="with --plan: the chance to find it (default: 0.8)")
    add_json(parser)


def run(args: Arguments) -> int:
    first, second = _sides(args)
    if args.plan:
        print_tables(args, [_plan(args, first, second)])
        return DONE
    if args.power is not None:
        raise UsageError("--power is for --plan; the column detectable is for a power of 0.8")
    table = compare(
        first, second, metric=args.metric, grader=args.grader, anyway=args.anyway, detect=check_detect(args.detect)
    )
    print_tables(args, [table])
    return DONE


def _plan(args: Arguments, first: list[Path], second: list[Path]) -> Table:
    detect = check_detect(args.detect)
    return plan(
        first,
        second,
        difference=detect if detect is not None else DETECT,
        power=args.power if args.power is not None else POWER,
        k=parse_metric(args.metric),
        grader=args.grader,
        anyway=args.anyway,
    )


def _sides(args: Arguments) -> tuple[list[Path], list[Path]]:
    if args.against is not None:
        return args.runs, args.against
    if len(args.runs) != 2:
        raise UsageError("name two runs, or several of one kind and those of the other after --against")
    return args.runs[:1], args.runs[1:]
