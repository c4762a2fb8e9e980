"""Write tasks for another evaluator or trainer, or a run as a log."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import (
    OutputArguments,
    add_output_options,
    add_set,
    add_split,
    decimal,
    given,
    one_of,
    parse_sets,
    plugin_settings,
    positive,
    split_names,
)
from harness.commands.base.output import print_result
from harness.core.config import Tree, merge, parse
from harness.core.errors import UsageError
from harness.interop import (
    inspect_export,
    inspect_log,
    lm_eval_export,
    recipe_export,
    trl_export,
    verifiers_export,
    verl_export,
)
from harness.interop.problems import ExportConfig, ProblemsConfig

EXAMPLE = "harness export lm-eval exported --tasks aime24,math500"
FORMS = ("lm-eval", "inspect", "inspect-log", "trl", "verl", "verifiers", "prime-rl")


class Arguments(OutputArguments):
    form: str
    out: Path
    tasks: str | None
    run: Path | None
    recipe: str | None
    grader: str | None
    model: str | None
    split: str | None
    n: int | None
    limit: int | None
    temperature: float | None
    max_tokens: int | None
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("form", **one_of(FORMS), help="for which tool")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--tasks", help="ids, separated by commas")
    parser.add_argument("--run", type=Path, help="for inspect-log: a run folder of `harness eval`")
    parser.add_argument("--recipe", help="for trl, verl and prime-rl: a recipe, whose objective is exported too")
    parser.add_argument("--grader", help="for every task, instead of its own")
    parser.add_argument("--model", help="for lm-eval: write the prompts with this model's chat template")
    add_split(parser, None, help="default: test")
    parser.add_argument("--n", type=positive, help="replies per problem (default: 1)")
    parser.add_argument("--limit", type=positive, help="only the first problems")
    parser.add_argument("--temperature", type=decimal, help="instead of the task's own; 0 is greedy")
    parser.add_argument("--max-tokens", type=positive, help="instead of the task's own")
    add_set(parser, "section.key=value, a TOML value")
    add_output_options(parser)


def run(args: Arguments) -> int:
    _check(args)
    files = _export(args)
    print_result(args, {"folder": str(args.out), "made": files}, "\n".join([f"written to {args.out}:", *files]))
    return DONE


def _check(args: Arguments) -> None:
    """Refuse flags that the chosen form has no use for."""
    if args.form == "inspect-log":
        is_valid, rule = args.run is not None and args.tasks is None, "--run, and no --tasks"
    elif args.form == "prime-rl" or (args.form in ("trl", "verl") and args.recipe is not None):
        given_too = (args.tasks, args.run, args.grader, args.split)
        is_valid = args.recipe is not None and given_too == (None,) * 4
        rule = "--recipe, and no --tasks, --run, --grader or --split: they are the recipe's"
    elif args.recipe is not None:
        is_valid, rule = False, "no --recipe: only trl, verl and prime-rl do"
    else:
        is_valid, rule = args.tasks is not None and args.run is None, "--tasks, and no --run"
    if not is_valid:
        raise UsageError(f"harness export {args.form} takes {rule}")
    if args.model is not None and args.form != "lm-eval":
        raise UsageError("--model is for lm-eval; the others ask with messages")
    if flags := _without_use(args):
        why = "a log has what its run has" if args.form == "inspect-log" else "the trainer draws the replies"
        raise UsageError(f"harness export {args.form} takes no {flags[0]}: {why}")


def _without_use(args: Arguments) -> list[str]:
    """Return the flags that were given and would have no effect."""
    drawn: Tree = {"--n": args.n, "--temperature": args.temperature, "--max-tokens": args.max_tokens}
    posed: Tree = {"--grader": args.grader, "--split": args.split, "--limit": args.limit, "--set": args.set}
    trainers = dict.fromkeys(("trl", "verl", "verifiers", "prime-rl"), drawn)
    refused = {**trainers, "inspect-log": drawn | posed}.get(args.form, {})
    return [flag for flag, value in refused.items() if value not in (None, [])]


def _export(args: Arguments) -> list[str]:
    """Write the folder; return the names of its files."""
    if args.form == "inspect-log":
        assert args.run is not None, "_check refuses that"
        return [path.name for path in inspect_log.export(args.run, args.out)]
    if args.recipe is not None:
        if args.form == "verl":
            return recipe_export.export_verl(args.recipe, parse_sets(args.set), args.out)
        export = recipe_export.export_trl if args.form == "trl" else recipe_export.export_prime_rl
        return export(args.recipe, parse_sets(args.set), given(limit=args.limit), args.out)
    settings = merge(_flags(args), parse_sets(args.set))
    if args.form == "verifiers":
        return verifiers_export.export(parse(ProblemsConfig, settings), args.out)
    if args.form == "trl":
        return trl_export.export(parse(ProblemsConfig, settings), args.out)
    if args.form == "verl":
        return verl_export.export(parse(ProblemsConfig, settings), args.out)
    config = parse(ExportConfig, settings)
    if args.form == "inspect":
        return inspect_export.export(config, args.out)
    return lm_eval_export.export(config, args.out, args.model)


def _flags(args: Arguments) -> Tree:
    """Return the flags that were given as a config tree."""
    sampling = given(temperature=args.temperature, max_tokens=args.max_tokens)
    return {
        **given(tasks=split_names(args.tasks)),
        **plugin_settings("grader", args.grader),
        **({"sampling": sampling} if sampling else {}),
        **given(split=args.split, n=args.n, limit=args.limit),
    }
