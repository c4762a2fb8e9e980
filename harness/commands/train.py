"""Train a model."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import (
    RunArguments,
    add_run_options,
    parse_sets,
    plugin_settings,
    strictness,
)
from harness.commands.base.output import print_config, print_result
from harness.core.config import Tree, merge, parse, read_toml
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.runs.folder import default_folder

EXAMPLE = "harness train countdown-flowrl --set loop.steps=40 --out runs/a"


class Arguments(RunArguments):
    config: str
    engine: str | None
    backend: str | None
    rollouts_only: bool
    from_rollouts: Path | None
    ignore_memory: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a TOML file, or the name of a recipe (`harness show NAME` prints it)")
    parser.add_argument("--engine", help="what samples (default: the recipe's, else hf)")
    parser.add_argument("--backend", help="which trainer runs the steps (default: the recipe's, else our own loop)")
    rollouts = parser.add_mutually_exclusive_group()
    rollouts.add_argument("--rollouts-only", action="store_true", help="sample and save every step without training")
    rollouts.add_argument("--from-rollouts", type=Path, metavar="RUN", help="train on what another run saved")
    parser.add_argument("--ignore-memory", action="store_true", help="start a run that seems too large for memory")
    add_run_options(parser)


def run(args: Arguments) -> int:
    # Imported here because they load torch, which `harness train --help` and a misspelt config can do without.
    path = find_config(args.config)
    settings = merge(read_toml(path), _settings(args))
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of a launcher, such as accelerate's
    progress = Progress(quiet=args.quiet or not is_first)
    with progress.working("loading torch"):
        from harness.trainers.config import TrainConfig
        from harness.trainers.train import train

    config = parse(TrainConfig, settings)
    folder = args.out if args.out is not None else default_folder(f"train-{path.stem}", config)
    if args.dry_run:
        from harness.trainers.setup import build_setup

        with progress.working(f"reading the task {config.task.id}"):
            setup = build_setup(config, folder)
            estimate = setup.backend.estimate(setup)
        print_config(args, config, folder, asdict(estimate), estimate.lines())
        estimate.check(progress, ignore_memory=args.ignore_memory)
        return DONE
    view = train(config, folder, progress, ignore_memory=args.ignore_memory)
    if not is_first:
        return DONE
    result = {"run": str(view.folder), "status": view.record.status, "last_step": view.steps()[-1]}
    print_result(args, result, folder)
    return DONE


def _settings(args: Arguments) -> Tree:
    """Return the flags that were given as a config tree; --set stands above the others."""
    rollouts: Tree = {"only": True} if args.rollouts_only else {}
    if args.from_rollouts is not None:
        rollouts["source"] = str(args.from_rollouts)
    flags = {"rollouts": rollouts} if rollouts else {}
    chosen = merge(plugin_settings("engine", args.engine), plugin_settings("backend", args.backend))
    return merge(strictness(args), chosen, flags, parse_sets(args.set))
