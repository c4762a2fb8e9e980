"""Measure the diversity of runs at equal numbers of samples, without generating.

The measures are stored in each run folder, where `harness report` finds them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import OutputArguments, add_output_options, add_set, parse_sets, split_names
from harness.commands.base.output import print_tables
from harness.core.progress import Progress
from harness.diversity.arms import read_arms
from harness.diversity.measures import check_ids, measure, measures
from harness.reports.report import tables_of

EXAMPLE = "harness diversity runs/base-eval runs/grpo-eval"


class Arguments(OutputArguments):
    runs: list[Path]
    metrics: str | None
    embed: str | None
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="evaluations to compare, each a run folder")
    parser.add_argument("--metrics", help="ids, separated by commas (default: all that need no model)")
    parser.add_argument("--embed", metavar="MODEL", help="add the measures of embeddings by a sentence model")
    add_set(parser, "an option of a metric, such as ead.most=3")
    add_output_options(parser)


def run(args: Arguments) -> int:
    options = parse_sets(args.set)
    names = split_names(args.metrics)
    chosen = names if names is not None else measures(with_models=False)
    if args.embed is not None:
        embedding = measures(with_models=True)
        chosen += [name for name in embedding if name not in chosen]
        options = {**options, **{name: {"model": args.embed, **options.get(name, {})} for name in embedding}}
    check_ids([*chosen, *options])
    progress = Progress(quiet=args.quiet)
    arms = read_arms(args.runs, progress)
    measure(arms, chosen, options, progress)
    print_tables(args, tables_of([arm.run.folder for arm in arms], ["diversity"]))
    return DONE
