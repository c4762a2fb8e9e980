"""Find test problems that a training set contains too.

Texts are compared as sequences of words, numbers and signs, so spacing, letter case and typesetting do not matter, but
a minus or a digit does. Two texts are the same when the sequences are equal. They are near when enough of the test
problem's runs of eight tokens also occur in the training problem.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
from harness.core.errors import ConfigError
from harness.core.protocols import Split, Task
from harness.core.types import Table

EXAMPLE = "harness overlap math olympiadbench"
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
    test: str
    near: float
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", help="a task with a train split")
    parser.add_argument("test", help="a task with a test split")
    parser.add_argument("--near", type=_share, default=NEAR, help=f"the least share of common runs (default: {NEAR})")
    add_set(parser, "an option of the test task")
    add_output_options(parser)


def run(args: Arguments) -> int:
    train = statements(args.train, build_task(args.train, {}), "train")
    test = statements(args.test, build_task(args.test, parse_sets(args.set)), "test")
    pairs = find_pairs(train, test, near=args.near)
    tables = [summary_table(args.train, args.test, len(test), pairs)]
    print_tables(args, [*tables, pairs_table(pairs)] if pairs else tables)
    return DONE


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


def summary_table(train: str, test: str, n_test: int, pairs: Iterable[Pair]) -> Table:
    """Count the test problems that the training set contains, and those of which it contains only something near."""
    exact = {pair.test_id for pair in pairs if pair.is_exact}
    near = {pair.test_id for pair in pairs} - exact
    columns = ("training set", "test set", "problems", "same", "near")
    return Table(f"{test} in {train}", columns, ((train, test, n_test, len(exact), len(near)),))


def pairs_table(pairs: Iterable[Pair]) -> Table:
    rows = tuple(
        (pair.test_id, pair.train_id, "same" if pair.is_exact else "near", round(pair.share, 3)) for pair in pairs
    )
    return Table("Pairs", ("test problem", "training problem", "how", "share of runs"), rows)
