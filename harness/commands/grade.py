"""Grade a run again without generating."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from harness.commands import DONE, UNGRADED
from harness.commands.base.arguments import OutputArguments, add_output_options, add_set, parse_sets, positive
from harness.commands.base.output import print_result, reasons_text
from harness.core.config import PluginChoice, parse_plugin
from harness.core.progress import Progress
from harness.evaluation.regrade import Regraded, regrade
from harness.reports.run_facts import without_repeats

UNREADABLE = "reference unreadable"
EXAMPLE = "harness grade runs/a --grader math"


class Arguments(OutputArguments):
    run: Path
    grader: str | None
    set: list[str]
    threads: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run folder of `harness eval`, or an evaluation of a train run")
    parser.add_argument("--grader", help="an id (default: the run's own, usually that of each task)")
    add_set(parser, "an option of the grader")
    parser.add_argument("--threads", type=positive, help="verdicts at a time (default: as many as the grader can give)")
    add_output_options(parser)


def run(args: Arguments) -> int:
    regraded = regrade(args.run, _grader(args), args.threads, Progress(quiet=args.quiet))
    print_result(args, asdict(regraded), "\n".join(_lines(regraded)))
    return UNGRADED if regraded.too_many_ungraded else DONE


def _grader(args: Arguments) -> PluginChoice | None:
    if not args.grader:
        return None
    return parse_plugin("graders", {"id": args.grader, **parse_sets(args.set)}, "grader")


def _lines(regraded: Regraded) -> list[str]:
    estimates = [
        f"{task}: {e.name} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}]"
        for task, of_task in regraded.estimates.items()
        for e in without_repeats(of_task)
    ]
    lines = [*estimates, f"{regraded.n_completions} completions graded, {regraded.n_ungraded} of them ungraded"]
    if regraded.reasons:
        lines.append(f"ungraded: {reasons_text(regraded.reasons)}")
    if list(regraded.reasons) == [UNREADABLE] and regraded.n_ungraded == regraded.n_completions:
        lines.append("this grader can't read the reference answers of these tasks; `harness list graders` names others")
    return lines
