"""The runs whose diversity is compared, with their graded samples, and the numbers of samples that all of them have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.progress import Progress
from harness.core.protocols import Grader
from harness.core.types import NO_COMPLETION, Graded
from harness.evaluation.regrade import stored_config
from harness.evaluation.setup import TaskSetup, resolve_tasks
from harness.runs.folder import RunReader
from harness.runs.index import CompletionIndex

FEWEST = 2
MOST_CLASSES, MOST_CHARACTERS = 32, 200
"""Limits of comparing wrong answers in pairs: longer ones, and those beyond so many classes, are compared as text."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One run: its tasks, and the graded samples of each by problem, in order of their index."""

    run: RunReader
    tasks: Mapping[str, TaskSetup]
    graded: Mapping[str, Mapping[str, Sequence[Graded[Any]]]]

    @property
    def id(self) -> str:
        return str(self.run.folder.resolve())


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many samples, and how many right ones, are compared; None where too few problems have two."""

    samples: int | None
    correct: int | None


def read_arms(folders: Sequence[Path], progress: Progress) -> list[Arm]:
    """Read the runs. Raise if they have no task in common."""
    different = list(dict.fromkeys(folder.resolve() for folder in folders))
    arms = [_read(folder, progress) for folder in different]
    if not common_tasks(arms):
        names = "; ".join(f"{arm.run.folder} has {', '.join(arm.tasks)}" for arm in arms)
        raise UsageError(f"these runs have no task in common: {names}")
    return arms


def common_tasks(arms: Sequence[Arm]) -> list[str]:
    return [task for task in arms[0].graded if all(task in arm.graded for arm in arms)]


def _read(folder: Path, progress: Progress) -> Arm:
    run, config = RunReader.read(folder), stored_config(folder)
    tasks = resolve_tasks(config, progress)
    index = CompletionIndex(run, {name: task.grader_name for name, task in tasks.items()})
    graded = {name: _graded(task, index) for name, task in tasks.items()}
    graded = {name: {p: merged(items, tasks[name].grader) for p, items in of.items()} for name, of in graded.items()}
    if not any(graded.values()):
        raise UsageError(f"{folder} has no graded completions; finish the evaluation first")
    return Arm(run, tasks, graded)


def _graded(task: TaskSetup, index: CompletionIndex) -> dict[str, list[Graded[Any]]]:
    """Return the samples that the config asks for and that have a verdict; those that were never generated lack one."""
    completions, verdicts = index.completions[task.id], index.verdicts[task.id]
    found: dict[str, list[Graded[Any]]] = {}
    for problem in task.problems:
        keys = [(problem.id, i) for i in range(task.plan.n) if (problem.id, i) in completions]
        items = [Graded(problem, completions[key], verdicts[key]) for key in keys if key in verdicts]
        if items := [item for item in items if NO_COMPLETION not in item.verdict.details]:
            found[problem.id] = items
    return found


def merged(items: Sequence[Graded[Any]], grader: Grader[Any]) -> list[Graded[Any]]:
    """Return the samples with equal wrong answers, by the grader's equivalence, written alike.

    Each different text is compared with the first of every class so far, up to MOST_CLASSES of them.
    """
    firsts: list[str] = []
    names: dict[str, str] = {}
    for item in items:
        text = item.verdict.extracted
        if text is None or text in names or item.verdict.outcome != "incorrect" or len(text) > MOST_CHARACTERS:
            continue
        same = next((first for first in firsts[:MOST_CLASSES] if grader.are_equal(first, text)), None)
        names[text] = same if same is not None else text
        if same is None:
            firsts.append(text)
    return [_renamed(item, names) for item in items]


def _renamed(item: Graded[Any], names: Mapping[str, str]) -> Graded[Any]:
    text = item.verdict.extracted
    if item.verdict.outcome != "incorrect" or text is None or names.get(text, text) == text:
        return item
    return dataclasses.replace(item, verdict=dataclasses.replace(item.verdict, extracted=names[text]))


def flat(graded: Mapping[str, Sequence[Graded[Any]]]) -> list[Graded[Any]]:
    return [item for items in graded.values() for item in items]


def right_items(items: Sequence[Graded[Any]]) -> list[Graded[Any]]:
    return [item for item in items if item.verdict.outcome == "correct"]


def sizes_of(arms: Sequence[Arm], task: str) -> Sizes:
    """Return the numbers of samples to compare on the problems that all arms have.

    That is the smallest number of graded samples, and the largest power of 2 that at least half of the problems which
    every arm solved twice have in every arm.
    """
    problems = [p for p in arms[0].graded[task] if all(p in arm.graded[task] for arm in arms)]
    judged = [min(_n(arm.graded[task][p], "correct", "incorrect") for arm in arms) for p in problems]
    right = sorted((min(_n(arm.graded[task][p], "correct") for arm in arms) for p in problems), reverse=True)
    samples = min((n for n in judged if n), default=0)
    solved = [n for n in right if n >= FEWEST]
    correct = 1 << (solved[(len(solved) - 1) // 2].bit_length() - 1) if solved else None
    return Sizes(samples if samples >= FEWEST else None, correct)


def _n(items: Sequence[Graded[Any]], *outcomes: str) -> int:
    return sum(item.verdict.outcome in outcomes for item in items)


def with_details(item: Graded[Any], **details: Any) -> Graded[Any]:
    """Return the sample with more details in its verdict."""
    verdict = dataclasses.replace(item.verdict, details={**item.verdict.details, **details})
    return dataclasses.replace(item, verdict=verdict)
