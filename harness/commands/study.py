"""Train and evaluate several methods from one base, with seeds, and compare them."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE, FAILED, UNGRADED
from harness.commands.base.arguments import OutputArguments, add_output_options, positive
from harness.commands.base.output import print_remark, print_result
from harness.core.progress import Progress

EXAMPLE = "harness study study.toml --parallel 2 --out runs/study"


class Arguments(OutputArguments):
    study: str
    out: Path | None
    parallel: int | None
    dry_run: bool
    ignore_memory: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="a study file (TOML), or the name of a bundled one")
    parser.add_argument("--out", type=Path, help="the folder of the study (default: runs/ and its name)")
    parser.add_argument(
        "--parallel", type=positive, metavar="N", help="processes side by side (default: one a core; on a GPU one)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print cells, tokens, hours and memory, and stop")
    parser.add_argument("--ignore-memory", action="store_true", help="start more than seems to fit into memory")
    add_output_options(parser)


def run(args: Arguments) -> int:
    # Imported here because they load torch, which `harness study --help` can do without.
    progress = Progress(quiet=args.quiet)
    from harness.study.config import find_study, read_study

    path = find_study(args.study)
    folder = args.out if args.out is not None else Path("runs") / read_study(path).name
    with progress.working("loading torch"):
        from harness.study import resources
        from harness.study.study import open_study, run_study

    study = open_study(path, folder)
    with progress.working(f"checking {len(study.arms)} arms"):
        arms = resources.estimates(study)
        resources.refuse_unreadable_base(study, arms)
        workers = resources.workers(study, arms, args.parallel, ignore_memory=args.ignore_memory)
    ending = run_study(
        study, progress, n_workers=workers.count, threads=workers.threads, ignore_memory=args.ignore_memory
    )
    text = f"study: {folder}\n{ending.n_run} jobs run, {ending.n_done_before} were done, {len(ending.failures)} failed"
    summary = {"study": str(folder), "run": ending.n_run, "done before": ending.n_done_before}
    print_result(args, {**summary, "failures": ending.failures, "ungraded": ending.ungraded}, text)
    if ending.failures:
        print_remark(f"the same command runs again what failed: {', '.join(ending.failures)}")
        return FAILED
    return UNGRADED if ending.ungraded else DONE
