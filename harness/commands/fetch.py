"""Download a task's data and check them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from harness.commands import DONE
from harness.commands.base.arguments import OutputArguments, add_output_options, add_set, build_task, parse_sets
from harness.commands.base.output import print_tables
from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.core.protocols import Split, Task
from harness.core.types import Table
from harness.data import files as data
from harness.data.dataset_facts import mismatch_or_yes

EXAMPLE = "harness fetch aime24 math500"
COLUMNS = ("task", "split", "rows", "fingerprint", "as recorded", "files")


class Arguments(OutputArguments):
    tasks: list[str]
    again: bool
    set: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--again", action="store_true", help="download also what the cache has")
    add_set(parser)
    add_output_options(parser)


def run(args: Arguments) -> int:
    progress = Progress(quiet=args.quiet)
    settings = parse_sets(args.set)
    tasks = {name: build_task(name, settings) for name in args.tasks}
    print_tables(args, [fetch(name, task, again=args.again, progress=progress) for name, task in tasks.items()])
    return DONE


def fetch(task_id: str, task: Task[Any], *, again: bool, progress: Progress) -> Table:
    """Fetch and check every file of every split; `again` downloads also what the cache has."""
    if not task.files():
        raise ConfigError(f"{task_id} makes its problems itself; there is nothing to fetch")
    rows = tuple(_fetch_splits(task_id, task, again, progress))
    return Table(f"Data of {task_id}", COLUMNS, rows)


def _fetch_splits(task_id: str, task: Task[Any], again: bool, progress: Progress) -> Iterator[tuple[Any, ...]]:
    for split, files in task.files().items():
        progress.begin(f"fetch {task_id} {split}", len(files))
        for file in files:
            path = data.locate(file, again=again)
            progress.say(f"{path}  {path.stat().st_size / 1e6:.1f} MB  sha256 {data.checksum(path)[:12]}")
            progress.advance()
        progress.end()
        yield _row(task_id, task, split)


def _row(task_id: str, task: Task[Any], split: Split) -> tuple[Any, ...]:
    loaded = task.loaded(split)
    assert loaded is not None, "a task with files describes what it loads"
    return task_id, split, loaded.n_rows, loaded.fingerprint, mismatch_or_yes(loaded), len(loaded.files)
