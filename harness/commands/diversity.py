"""Measure the diversity of runs at equal numbers of samples, without generating.

The measures are stored in each run folder, where `harness report` finds them. With --judge a language model sorts the
right solutions of every problem by strategy; it is asked only what it has not answered before.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.commands import DONE, UNGRADED
from harness.commands.base.arguments import (
    OutputArguments,
    add_output_options,
    add_set,
    parse_sets,
    positive,
    split_names,
)
from harness.commands.base.output import print_tables
from harness.core.config import Tree, parse_plugin
from harness.core.errors import UsageError
from harness.core.progress import Progress
from harness.data.download import cache_root
from harness.diversity.arms import read_arms
from harness.diversity.asking import Judge
from harness.diversity.judged import judge_arms
from harness.diversity.legacy import rate_arms
from harness.diversity.measures import check_ids, measure, measures
from harness.reports.report import tables_of
from harness.runs.reply_cache import ReplyCache

EXAMPLE = "harness diversity runs/base-eval runs/grpo-eval"
BUDGET = 200_000


class Arguments(OutputArguments):
    runs: list[Path]
    metrics: str | None
    embed: str | None
    judge: str | None
    base_url: str | None
    passes: int
    solutions: int | None
    legacy: bool
    budget: int
    yes: bool
    judge_cache: Path | None
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="evaluations to compare, each a run folder")
    parser.add_argument("--metrics", help="ids, separated by commas (default: all that need no model)")
    parser.add_argument("--embed", metavar="MODEL", help="add the measures of embeddings by a sentence model")
    parser.add_argument("--judge", metavar="MODEL", help="sort right solutions by strategy with this language model")
    parser.add_argument("--base-url", help="the judge's OpenAI-compatible server; or --set judge.engine.id=vllm")
    parser.add_argument("--passes", type=positive, default=2, help="orders of the solutions, each in two wordings (2)")
    parser.add_argument("--solutions", type=positive, help="right solutions of a problem that are judged at most")
    parser.add_argument(
        "--legacy", action="store_true", help="ask the judge of the FlowRL paper instead, faults included"
    )
    parser.add_argument("--budget", type=positive, default=BUDGET, help=f"tokens without asking for --yes ({BUDGET:,})")
    parser.add_argument("--yes", action="store_true", help="consent to more tokens than the budget")
    parser.add_argument("--judge-cache", type=Path, help="where replies are kept (default: the cache folder)")
    add_set(parser, "an option of a metric or of the judge's engine: ead.most=3, judge.engine.timeout_s=60")
    add_output_options(parser)


def run(args: Arguments) -> int:
    options = parse_sets(args.set)
    judge = _judge(args, options.pop("judge", {}))
    chosen, options = _chosen(args, options)
    progress = Progress(quiet=args.quiet)
    arms = read_arms(args.runs, progress)
    measure(arms, chosen, options, progress)
    failed = False
    if judge is not None:
        try:
            cards = (
                rate_arms(arms, judge, progress)
                if args.legacy
                else judge_arms(arms, judge, args.passes, args.solutions, progress, _encoder(args))
            )
        finally:
            judge.close()
        failed = any(not card["failed"].startswith("0 ") for card in cards.values())
    print_tables(args, tables_of([arm.run.folder for arm in arms], ["diversity"]))
    if failed:
        progress.warn("some labels are missing, see `failed` below the table; the same command asks for them again")
    return UNGRADED if failed and not args.legacy else DONE


def _chosen(args: Arguments, options: Tree) -> tuple[list[str], Tree]:
    """Return the ids of the metrics and their options."""
    names = split_names(args.metrics)
    chosen = names if names is not None else measures(with_models=False)
    if args.embed is not None:
        embedding = measures(with_models=True)
        chosen += [name for name in embedding if name not in chosen]
        options = {**options, **{name: {"model": args.embed, **options.get(name, {})} for name in embedding}}
    check_ids([*chosen, *options])
    return chosen, options


def _encoder(args: Arguments) -> Any:
    """Return the encoder of --embed, whose clusters the judge is compared with."""
    if args.embed is None:
        return None
    return parse_plugin("metrics", {"id": "embedding_distance", "model": args.embed}).build().encoder


def _judge(args: Arguments, options: dict[str, Any]) -> Judge | None:
    if args.judge is None:
        if args.legacy or args.base_url is not None or options:
            raise UsageError("--legacy, --base-url and --set judge.* need --judge MODEL")
        return None
    engine = options.get("engine", {})
    if args.base_url is not None:
        # A greedy reply needs no seed, and some servers refuse one.
        engine = {"id": "openai", "base_url": args.base_url, "omit": ["seed"], "is_listed": False, **engine}
    if "id" not in engine:
        raise UsageError("the judge needs a server or an engine: --base-url http://... or --set judge.engine.id=vllm")
    folder = args.judge_cache if args.judge_cache is not None else cache_root() / "judge"
    return Judge(args.judge, parse_plugin("engines", engine, "judge"), ReplyCache(folder), args.budget, args.yes)
