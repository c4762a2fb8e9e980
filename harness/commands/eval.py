"""Evaluate models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.commands import DONE, UNGRADED
from harness.commands.base.arguments import (
    RunArguments,
    add_run_options,
    decimal,
    decimals,
    given,
    integer,
    parse_sets,
    plugin_settings,
    split_names,
    strictness,
)
from harness.commands.base.output import print_config, print_path, print_remark, print_tables, reasons_text
from harness.core.config import Tree, digest, merge, parse, read_toml
from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.evaluation.config import DEFAULT_METRICS, EvalConfig
from harness.evaluation.control_runs import plan_controls, run_controls
from harness.evaluation.controls import ControlsConfig, ControlsTable
from harness.evaluation.loop import Evaluation
from harness.evaluation.metric_names import metric_settings, samples_averaged
from harness.evaluation.sweep import EvalRun, eval_runs, evaluate_runs, sweep
from harness.reports.report import tables_of, write_report
from harness.runs.folder import default_folder

EXAMPLE = "harness eval countdown-tiny runs/a --tasks countdown --n 16 --temperature 0.6,1.0"


class Arguments(RunArguments):
    model: list[str]
    config: Path | None
    tasks: str | None
    preset: str | None
    engine: str | None
    grader: str | None
    metrics: str | None
    split: str | None
    n: int | None
    until: float | None
    controls: str | None
    limit: int | None
    problem: str | None
    temperature: list[float]
    max_tokens: int | None
    seed: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="*", help="a model directory, a train run, a bundled model or a hub id")
    parser.add_argument("--config", type=Path, help="a TOML file with any of these settings, and the others")
    parser.add_argument("--tasks", help="ids, separated by commas")
    parser.add_argument("--preset", help="a published protocol: `harness list presets`; other flags stand above it")
    parser.add_argument("--engine", help="what generates (default: hf)")
    parser.add_argument("--grader", help="what judges (default: each task's own); its options: --set grader.KEY=VALUE")
    parser.add_argument(
        "--metrics",
        help="further metrics: ids, or names as tables print them (pass@k,avg@16,tokens); `diversity` is all "
        "of those that need no model",
    )
    parser.add_argument("--split", help="train, validation or test (default: test)")
    parser.add_argument("--n", type=integer, help="samples per problem (default: 16); a larger n extends a run")
    parser.add_argument(
        "--until", type=decimal, help="stop below --n once avg of these problems is known to plus and minus this (0.02)"
    )
    parser.add_argument(
        "--controls",
        nargs="?",
        const="",
        metavar="BASE",
        help="also evaluate the base model: as the trained one, with its best prompt, and at the temperature of equal "
        "entropy (BASE: that of the train run's record; budgets: --set controls.KEY=VALUE)",
    )
    parser.add_argument("--limit", type=integer, help="only the first problems; a larger limit extends a run")
    parser.add_argument("--problem", help="only these: ids, or numbers counted from 0, separated by commas")
    parser.add_argument(
        "--temperature", type=decimals, default=[], help="instead of the task's own, several with commas; 0 is greedy"
    )
    parser.add_argument("--max-tokens", type=integer, help="instead of the task's own")
    parser.add_argument("--seed", type=integer, help="of the samples (default: 0)")
    add_run_options(parser)


def run(args: Arguments) -> int:
    several = _settings(args)
    controls = _controls(args, several)
    runs = eval_runs(several, args.out, _default_folder)
    if controls is not None:
        return _run_with_controls(args, runs, controls)
    if args.dry_run:
        for one in runs:
            print_config(args, one.config, one.folder)
        return DONE
    progress = Progress(quiet=args.quiet)
    for text in dict.fromkeys(line for one in runs for line in _deviations(one.config)):
        progress.say(text)
    evaluations = list(evaluate_runs(runs, progress))
    print_tables(args, tables_of([one.folder for one in runs], ["results"]))
    if len(runs) > 1:
        print_path(args, "report", _write_common_report(runs, args.out))
    # All are printed before the worst exit code is taken.
    return max([_conclude(args, one.config, done) for one, done in zip(runs, evaluations, strict=True)])


def _run_with_controls(args: Arguments, runs: Sequence[EvalRun], settings: ControlsConfig) -> int:
    """Evaluate one model and its controls; print them in one table."""
    if len(runs) > 1:
        raise ConfigError(
            "--controls is for one model at one temperature, since its controls match both; run it once for each"
        )
    (one,), progress = runs, Progress(quiet=args.quiet)
    name = f"controls-{Path(one.config.model.path).name}"
    plan = plan_controls(
        one.config, settings, args.out if args.out is not None else default_folder(name, one.config), progress
    )
    if args.dry_run:
        print_config(args, one.config, plan.trained.folder, comments=[f"# {line}" for line in plan.lines()])
        return DONE
    for text in (*_deviations(one.config), *plan.lines()):
        progress.say(text)
    done = run_controls(plan, progress)
    folders = [evaluation.run.folder for evaluation in done.values()]
    print_tables(args, tables_of(folders, ["controls"]))
    print_path(args, "report", write_report(folders, plan.out / "report", None).markdown)
    return max([_conclude(args, one.config, evaluation) for evaluation in done.values()])


# --- settings ---------------------------------------------------------------------------------------------------


def _settings(args: Arguments) -> list[Tree]:
    """Return the settings of each evaluation: --set over flags over the config file."""
    file = read_toml(args.config) if args.config is not None else {}
    flags = merge(_flags(args), strictness(args))
    overrides = parse_sets(args.set)
    return [merge(file, flags, one, overrides) for one in sweep(args.model, args.temperature)]


def _controls(args: Arguments, several: Sequence[Tree]) -> ControlsConfig | None:
    """Take the table `controls` out of the settings and parse it; None if no controls are asked for."""
    tables = [settings.pop("controls", None) for settings in several]
    if args.controls is None and tables[0] is None:
        return None
    flag = {"base": args.controls} if args.controls else {}
    return parse(ControlsTable, {"controls": merge(flag, tables[0] if tables[0] is not None else {})}).controls


def _flags(args: Arguments) -> Tree:
    """Return the flags that were given as a config tree."""
    return {
        **given(tasks=split_names(args.tasks), problems=split_names(args.problem)),
        **plugin_settings("engine", args.engine),
        **plugin_settings("grader", args.grader),
        **given(sampling={"max_tokens": args.max_tokens} if args.max_tokens is not None else None),
        **_metrics(args),
        **given(preset=args.preset, split=args.split, limit=args.limit, seed=args.seed, until=args.until),
    }


def _default_folder(config: EvalConfig) -> Path:
    return default_folder(f"eval-{Path(config.model.path).name}", config)


def _metrics(args: Arguments) -> Tree:
    """Return the number of samples and the metrics. `avg@16` is of 16 samples, so it sets the number."""
    names = split_names(args.metrics)
    if names is None:
        return given(n=args.n)
    n = samples_averaged(names)
    if n is not None and args.n not in (None, n):
        raise ConfigError(f"avg@{n} is the average of {n} samples, and --n is {args.n}; write avg@k, or --n {n}")
    return {**given(n=n if n is not None else args.n), "metrics": metric_settings([*DEFAULT_METRICS, *names])}


def _deviations(config: EvalConfig) -> Sequence[str]:
    """Return lines on how the config differs from its preset."""
    if config.preset is None:
        return []
    return [f"preset {config.preset}; what differs:", *(f"  {text}" for text in config.deviations)]


# --- results ----------------------------------------------------------------------------------------------------


def _write_common_report(runs: Sequence[EvalRun], out: Path | None) -> Path:
    """Write one report over all evaluations; return the path of its page."""
    names = [one.folder.name for one in runs]
    folder = out / "report" if out is not None else Path("runs") / f"report-{digest({'runs': names})[:8]}"
    return write_report([one.folder for one in runs], folder, None).markdown


def _conclude(args: Arguments, config: EvalConfig, done: Evaluation) -> int:
    """Print where the run is, warn of what it lacks, and return its exit code."""
    print_path(args, "run", done.run.folder)
    if done.n_failed:
        print_remark(
            f"{done.n_failed} completions could not be generated and are ungraded; the same command asks for them again"
        )
    if done.share_ungraded <= config.max_ungraded:
        return DONE
    print_remark(
        f"more than max_ungraded = {config.max_ungraded:g} of the completions could not be graded "
        f"({reasons_text(done.reasons)}); {done.run.folder / 'verdicts.jsonl'} has all reasons"
    )
    return UNGRADED
