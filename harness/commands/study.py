"""Train and evaluate several methods from one base, with seeds, and compare them."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE, FAILED, UNGRADED
from harness.commands.base.arguments import OutputArguments, add_output_options, positive
from harness.commands.base.output import print_remark, print_result
from harness.core.progress import Progress
from harness.study.config import bundled_studies, find_study, read_study

EXAMPLE = "harness study study.toml --parallel 2 --out runs/study"


class Arguments(OutputArguments):
    study: str
    out: Path | None
    parallel: int | None
    ray: str | None
    dry_run: bool
    ignore_memory: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(bundled_studies())
    parser.add_argument("study", help=f"a study file (TOML), or the name of a bundled one: {names}")
    parser.add_argument("--out", type=Path, help="the folder of the study (default: runs/ and its name)")
    parser.add_argument(
        "--parallel", type=positive, metavar="N", help="processes side by side (default: one a core; on a GPU one)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the jobs on a Ray cluster, such as 10.0.0.1:6379 or auto; local: on this machine. "
        "[ray] in the study file says what each job takes, and --parallel limits how many run at a time",
    )
    parser.add_argument("--dry-run", action="store_true", help="print cells, tokens, hours and memory, and stop")
    parser.add_argument("--ignore-memory", action="store_true", help="start more than seems to fit into memory")
    add_output_options(parser)


def run(args: Arguments) -> int:
    progress = Progress(quiet=args.quiet)
    path = find_study(args.study)
    folder = args.out if args.out is not None else Path("runs") / read_study(path).name
    # Imported here because they load torch, which `harness study --help` and a wrong file can do without.
    with progress.working("loading torch"):
        from harness.study.resources import check_arms, ray_workers, workers
        from harness.study.study import open_study, run_study, tasks_of, trial_tasks

    study = open_study(path, folder)
    with progress.working(f"checking {len(study.arms)} arms"):
        arms = check_arms(study)
        wanted = args.parallel if args.ray is None else None
        used = workers(study, arms, wanted, ignore_memory=args.ignore_memory or args.dry_run)
    if args.dry_run:
        from harness.study.pricing import price

        (tasks, n_done), (more, n_more) = trial_tasks(study), tasks_of(study.cells, study.config.base)
        with progress.working("measuring the first steps"):
            rows = price(study, arms, used, [*tasks, *more], n_done + n_more).rows()
        width = max(map(len, rows))
        text = "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())
        print_result(args, {"folder": str(folder), **rows}, f"{study.config.name}, in {folder}\n{text}")
        return DONE
    for estimate in arms.values():
        estimate.check(progress, ignore_memory=args.ignore_memory)
    if args.ray is None:
        ending = run_study(study, progress, used, ignore_memory=args.ignore_memory)
    else:
        with ray_workers(study, used, args.ray, args.parallel) as on_ray:
            progress.say(f"{on_ray.count} jobs at a time on Ray")
            ending = run_study(study, progress, on_ray, ignore_memory=args.ignore_memory)
    text = f"study: {folder}\n{ending.n_run} jobs run, {ending.n_done_before} were done, {len(ending.failures)} failed"
    text += f"\nreport: {ending.page}" if ending.page is not None else ""
    summary = {
        "study": str(folder),
        "report": str(ending.page),
        "run": ending.n_run,
        "done before": ending.n_done_before,
    }
    print_result(args, {**summary, "failures": ending.failures, "ungraded": ending.ungraded}, text)
    if ending.failures:
        print_remark(f"the same command runs again what failed: {', '.join(ending.failures)}")
        return FAILED
    return UNGRADED if ending.ungraded else DONE
