"""Grade every reference, and answers that are known to be wrong, without a model; or test diversity metrics.

A reference that its own grader rejects, or one that accepts its nearest wrong neighbour, is a fault of the data or of
the grader, and would falsify every number made with them. With --metric, a diversity metric is computed on runs of
known diversity, and on ones that are reworded, padded or spoilt by odd errors, which must not count.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.commands import DONE, FAILED, UNGRADED
from harness.commands.base.arguments import (
    OutputArguments,
    add_output_options,
    add_set,
    add_split,
    build_task,
    parse_sets,
    positive,
)
from harness.commands.base.output import print_tables
from harness.core.errors import ConfigError, UsageError
from harness.core.progress import Progress
from harness.core.protocols import Split, Task
from harness.core.types import Completion, GoldenCompletion, Problem, Table, Tokens, Verdict
from harness.diversity.measures import check_ids, measures
from harness.diversity.validation import N_PROBLEMS, validate_metrics
from harness.evaluation.pipeline import Pending, grade_in_order
from harness.evaluation.select import problems_of

EXAMPLE = "harness validate math500 minerva"


class Arguments(OutputArguments):
    tasks: list[str]
    split: Split
    limit: int | None
    set: list[str]
    metric: list[str] | None
    runs: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="ID",
        help="test this diversity metric instead; `all`: those without a model",
    )
    parser.add_argument(
        "--runs", type=positive, default=1, help="made-up runs of each kind for --metric; several give intervals (1)"
    )
    add_split(parser)
    parser.add_argument("--limit", type=positive, help="only the first problems; needed for train")
    add_set(parser)
    add_output_options(parser)


def run(args: Arguments) -> int:
    if args.metric is not None:
        return _test_metrics(args, args.metric)
    if not args.tasks:
        raise UsageError("give a TASK, or --metric ID")
    tables: list[Table] = []
    outcomes: list[TestOutcome] = []
    settings = parse_sets(args.set)
    tasks = {name: build_task(name, settings) for name in args.tasks}
    for name, task in tasks.items():
        of_task = validate(name, task, problems_of(task, args.split, 0, args.limit), Progress(quiet=args.quiet))
        tables += [summary_table(name, of_task), failures_table(name, of_task)]
        outcomes += of_task
    print_tables(args, [table for table in tables if table.rows])
    failures = [outcome for outcome in outcomes if not outcome.is_as_known]
    if not failures:
        return DONE
    return UNGRADED if all(failure.is_ungraded for failure in failures) else FAILED


def _test_metrics(args: Arguments, metrics: Sequence[str]) -> int:
    """Print the tests of these metrics, whose options are given by --set."""
    if args.tasks:
        raise UsageError("--metric tests metrics on countdown; leave out the tasks")
    ids = measures(with_models=False) if list(metrics) == ["all"] else metrics
    check_ids(ids)
    n_problems = args.limit if args.limit is not None else N_PROBLEMS
    options = parse_sets(args.set)
    print_tables(args, [validate_metrics([{"id": name, **options} for name in ids], n_problems, args.runs)])
    return DONE


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """One specimen and the verdict on it."""

    problem_id: str
    specimen: GoldenCompletion
    verdict: Verdict

    @property
    def is_as_known(self) -> bool:
        return self.verdict.outcome == self.specimen.outcome

    @property
    def is_ungraded(self) -> bool:
        return self.verdict.outcome == "ungraded"


def validate(task_id: str, task: Task[Any], problems: Sequence[Problem[Any]], progress: Progress) -> list[TestOutcome]:
    """Grade every specimen of every problem."""
    golden_completions = [(problem, specimen) for problem in problems for specimen in task.golden_completions(problem)]
    if not golden_completions:
        raise ConfigError(f"{task_id} has no golden completions to validate with")
    asked = [Pending(problem, _completion(problem, specimen)) for problem, specimen in golden_completions]
    progress.begin(f"validate {task_id}", len(golden_completions))
    outcomes: list[TestOutcome] = []
    n_surprises = 0
    for (problem, specimen), graded in zip(golden_completions, grade_in_order(asked, task.grader, None), strict=True):
        outcomes.append(TestOutcome(problem.id, specimen, graded.verdict))
        n_surprises += not outcomes[-1].is_as_known
        progress.advance(1, {"surprises": n_surprises})
    progress.end()
    return outcomes


def _completion(problem: Problem[Any], specimen: GoldenCompletion) -> Completion:
    return Completion(problem.id, 0, 0, specimen.text, "stop", Tokens(0, 0))


def summary_table(task_id: str, outcomes: Iterable[TestOutcome]) -> Table:
    """Count by sort the golden completions whose verdict is the known one."""
    total: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    ungraded: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        key = (outcome.specimen.what, outcome.specimen.outcome)
        total[key] += 1
        right[key] += outcome.is_as_known
        ungraded[key] += outcome.is_ungraded
    rows = tuple((*key, count, right[key], ungraded[key]) for key, count in total.items())
    return Table(f"Validation of {task_id}", ("specimen", "known verdict", "graded", "as known", "ungraded"), rows)


def failures_table(task_id: str, outcomes: Iterable[TestOutcome]) -> Table:
    """List the golden completions that were judged otherwise than known, or could not be graded."""
    rows = tuple(
        (
            outcome.problem_id,
            outcome.specimen.what,
            " ".join(outcome.specimen.text.split())[-60:],
            outcome.verdict.outcome,
            outcome.verdict.reason,
        )
        for outcome in outcomes
        if not outcome.is_as_known
    )
    return Table(f"Surprises in {task_id}", ("problem", "specimen", "ends in", "verdict", "reason"), rows)
