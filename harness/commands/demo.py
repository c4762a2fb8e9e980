"""Train FlowRL, GRPO and GRPO with KL on a small task and compare them, in two minutes on a processor.

It is a study with one seed, small enough to run as a first command. One seed proves nothing about the methods, and the
demo says so; `harness study` has the seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import DONE, FAILED
from harness.commands.base.arguments import OutputArguments, add_output_options, integer, positive
from harness.commands.base.output import print_path, print_remark, print_tables
from harness.core.errors import UsageError
from harness.core.progress import Progress
from harness.core.types import Table

if TYPE_CHECKING:
    from harness.reports.frontier import Curves
    from harness.study.study import Ending

EXAMPLE = "harness demo --out runs/demo"
STEPS = 128
N_SAMPLES, N_PROBLEMS = 32, 96
ARMS = """
[arms.grpo]
recipe = "countdown-grpo"

[arms.flowrl]
recipe = "countdown-flowrl"

[arms.grpo-kl]
recipe = "countdown-grpo"
kl_beta = 0.1
"""
OTHER_ARMS = """
[arms.ppo]
recipe = "countdown-ppo"

[arms.reinforce_pp]
recipe = "countdown-reinforce_pp"
"""
CELLS, SVG = "cells", "frontier.svg"


class Arguments(OutputArguments):
    out: Path
    steps: int
    seed: int
    full: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where everything goes")
    parser.add_argument("--steps", type=positive, default=STEPS, help=f"of training, each arm (default: {STEPS})")
    parser.add_argument("--seed", type=integer, default=0, help="of the first training (default: 0)")
    parser.add_argument("--full", action="store_true", help="with PPO and REINFORCE++, and two seeds of each method")
    add_output_options(parser)


def run(args: Arguments) -> int:
    progress = Progress(quiet=args.quiet)
    ending, curves = run_demo(study_file(args.steps, args.seed, full=args.full), args.out, progress)
    if ending.failures:
        for label, reason in ending.failures.items():
            print_remark(f"{label} failed: {reason}")
        print_remark("the same command runs again what failed")
        return FAILED
    from harness.reports.report import HTML, write_report

    with progress.working("writing the page"):
        files = write_report([args.out / CELLS], args.out / "page", ["frontier", "matched", "results"], formats=[HTML])
    print_tables(args, demo_tables(curves))
    for label, path in (("picture", args.out / SVG), ("report", ending.page), ("page", files.html)):
        if path is not None:
            print_path(args, label, path)
    return DONE


def study_file(steps: int, seed: int, *, full: bool = False, n_problems: int | None = None) -> str:
    """Return the study file of the demo: half the steps and all of them, at the temperature of training and a lower."""
    if seed < 0:
        raise UsageError(f"--seed is at least 0, not {seed}")
    return f"""# The study of `harness demo`; `harness study` runs it again, with more seeds if you like.
name = "demo"
base = "countdown-tiny"
steps = {steps}
checkpoints = {sorted({max(1, steps // 2), steps})}
seeds = {[seed, seed + 1] if full else [seed]}
draws = 1
temperatures = [1.0, 0.6]
n = {N_SAMPLES}
limit = {n_problems if n_problems is not None else N_PROBLEMS}

[controls]
evaluation = false # three more evaluations of the base for each arm
{ARMS}{OTHER_ARMS if full else ""}"""


def run_demo(text: str, folder: Path, progress: Progress) -> tuple[Ending, Curves]:
    """Run the study, or what is left of it, in a folder. Return its end, and the curves of what has not failed."""
    from harness.reports.frontier import read_curves
    from harness.reports.plots.frontier import frontier_svg
    from harness.runs.jsonl import write_whole
    from harness.study.counts import study_counts

    with progress.working("loading torch"):
        from harness.study.resources import check_arms, workers
        from harness.study.study import open_study, run_study
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "study.toml"
        file.write_text(text, encoding="utf-8")
        study = open_study(file, folder)
        used = workers(study, check_arms(study), None, ignore_memory=False)
        ending = run_study(study, progress, used)
    (curves,) = read_curves(study_counts(folder), counts_seeds=False)
    write_whole(folder / SVG, frontier_svg(curves))
    return ending, curves


def demo_tables(curves: Curves) -> list[Table]:
    """Return the points of the frontier, and the comparison at equal pass@1 with its sentences."""
    from harness.reports.frontier_tables import frontier_tables, matched_tables

    return [*frontier_tables(curves), *matched_tables(curves)[:1]]
