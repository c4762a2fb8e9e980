"""Find test problems that a training set, or the data of a training run, contains too.

Texts are compared as sequences of words, numbers and signs, so spacing, letter case and typesetting do not matter, but
a minus or a digit does. Two texts are the same when the sequences are equal. They are near when enough of the test
problem's runs of eight tokens also occur in the training problem.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands import DONE
from harness.commands.base.arguments import (
    OutputArguments,
    add_output_options,
    add_set,
    build_task,
    decimal,
    parse_sets,
)
from harness.commands.base.output import print_tables
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError, UsageError
from harness.core.protocols import Split, Task
from harness.core.types import Table
from harness.runs.folder import RunReader
from harness.runs.jsonl import read_lines

EXAMPLE = "harness overlap math olympiadbench math500"
RUN = 8
"""Tokens in a run."""
NEAR = 0.5

_TYPESETTING = re.compile(
    r"\\(?:(?:left|right|displaystyle|quad|qquad|text|textbf|textit|mathrm|mathbf|operatorname)(?![A-Za-z])|[,;!:> ])"
    r"|[$~{}]|\\[()\[\]]"
)
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")
_TOKEN = re.compile(r"\\[a-z]+|[a-z]+|[0-9]+|[^\sa-z0-9.,;:?]")


class Arguments(OutputArguments):
    train: str
    tests: list[str]
    near: float
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", help="a task with a train split, or a folder of `harness train`")
    parser.add_argument("tests", nargs="+", metavar="test", help="a task with a test split")
    parser.add_argument("--near", type=_share, default=NEAR, help=f"the least share of common runs (default: {NEAR})")
    add_set(parser, "an option of the test tasks")
    add_output_options(parser)


def run(args: Arguments) -> int:
    train = training_statements(args.train)
    settings = parse_sets(args.set)
    tests = {name: statements(name, build_task(name, settings), "test") for name in args.tests}
    tables = []
    rows = []
    for name, test in tests.items():
        pairs = find_pairs(train, test, near=args.near)
        rows.append(summary_row(args.train, name, len(test), pairs))
        tables += [pairs_table(pairs, name)] if pairs else []
    print_tables(args, [summary_table(rows), *tables])
    return DONE


def training_statements(name: str) -> list[tuple[str, str]]:
    """Return the ids and texts of a task's train split, or of the problems that a training run drew from."""
    if not (Path(name) / "run.json").is_file():
        return statements(name, build_task(name, {}), "train")
    run = RunReader.read(Path(name))
    if run.record.kind != "train":
        raise UsageError(f"{name} is not a training run, so it has no training data; name a folder of `harness train`")
    task = parse_plugin("tasks", run.config()["task"])
    every = statements(task.id, task.build(), "train")
    rollouts = run.folder / "rollouts.jsonl"
    sampled = {row["problem_id"] for row in read_lines(rollouts) if "problem_id" in row}
    return [(key, text) for key, text in every if key in sampled] if sampled else every


def _share(text: str) -> float:
    share = decimal(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return share


@dataclass(frozen=True, slots=True)
class Pair:
    """A test problem and a training problem that resembles it."""

    test_id: str
    train_id: str
    share: float
    """Share of the test problem's runs that occur in the training problem; 1 when equal."""
    is_exact: bool


def tokens(text: str) -> tuple[str, ...]:
    """Split a text into words, numbers, commands and signs; drop punctuation and typesetting."""
    plain = _TYPESETTING.sub(" ", _FRACTION.sub(r"\\frac", text))
    return tuple(_TOKEN.findall(plain.lower()))


def find_pairs(train: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]], *, near: float = NEAR) -> list[Pair]:
    """Every pair that is the same or near, the test problems in their order."""
    tested = {problem_id: tokens(text) for problem_id, text in test}
    whole: dict[tuple[str, ...], list[str]] = defaultdict(list)
    owners: dict[tuple[str, ...], set[str]] = defaultdict(set)
    n_runs = {}
    for problem_id, words in tested.items():
        whole[words].append(problem_id)
        runs = set(_runs(words))
        n_runs[problem_id] = len(runs)
        for run in runs:
            owners[run].add(problem_id)
    order = {problem_id: position for position, problem_id in enumerate(tested)}
    pairs = [
        pair for train_id, text in train for pair in _pairs_of(train_id, tokens(text), whole, owners, n_runs, near)
    ]
    return sorted(pairs, key=lambda pair: (order[pair.test_id], -pair.share, pair.train_id))


def _pairs_of(
    train_id: str,
    words: tuple[str, ...],
    whole: dict[tuple[str, ...], list[str]],
    owners: dict[tuple[str, ...], set[str]],
    n_runs: dict[str, int],
    near: float,
) -> Iterator[Pair]:
    same = whole.get(words, [])
    yield from (Pair(test_id, train_id, 1.0, True) for test_id in same)
    shared = Counter(test_id for run in set(_runs(words)) for test_id in owners.get(run, ()))
    for test_id, count in shared.items():
        if test_id not in same and count >= near * n_runs[test_id]:
            yield Pair(test_id, train_id, count / n_runs[test_id], False)


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[start : start + RUN] for start in range(len(words) - RUN + 1))


def statements(task_id: str, task: Task[Any], split: Split) -> list[tuple[str, str]]:
    """Return the ids and texts of a split, without the prompts around them."""
    if not task.files():
        raise ConfigError(f"{task_id} makes its problems itself, split by split; it shares none")
    return list(task.statements(split))


def summary_row(train: str, test: str, n_test: int, pairs: Iterable[Pair]) -> tuple[str, str, int, int, int]:
    """Count the test problems that the training set contains, and those of which it contains only something near."""
    exact = {pair.test_id for pair in pairs if pair.is_exact}
    near = {pair.test_id for pair in pairs} - exact
    return (train, test, n_test, len(exact), len(near))


def summary_table(rows: Sequence[tuple[str, str, int, int, int]]) -> Table:
    return Table("Overlap", ("training set", "test set", "problems", "same", "near"), tuple(rows))


def pairs_table(pairs: Iterable[Pair], test: str) -> Table:
    rows = tuple(
        (pair.test_id, pair.train_id, "same" if pair.is_exact else "near", round(pair.share, 3)) for pair in pairs
    )
    return Table(f"Pairs of {test}", ("test problem", "training problem", "how", "share of runs"), rows)
