"""What the exports for trainers share: where their problems come from, and the verdicts of replies by problem id."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.config import digest
from harness.core.errors import DataError
from harness.core.types import Problem, Verdict
from harness.evaluation.setup import grader_name
from harness.interop.problems import ProblemsConfig, origin_of, problems_in, turns
from harness.interop.verdict_server import Judge, judge
from harness.runs.jsonl import write_whole

TASKS = "tasks.json"
REWARD = "reward.py"


@dataclass(frozen=True, slots=True)
class ToTrainOn:
    """The problems of one task, who judges them, and where another process finds both."""

    task: str
    grader: str
    problems: Sequence[Problem[Any]]
    origin: Mapping[str, Any]


def to_train_on(config: ProblemsConfig) -> list[ToTrainOn]:
    """Every task of the config."""
    found = []
    for chosen in config.tasks:
        task, problems = problems_in(chosen, config)
        found.append(ToTrainOn(chosen.id, grader_name(task, config.grader), problems, origin_of(chosen, config)))
    return found


def write_reward(folder: Path, tasks: Sequence[ToTrainOn], code: str) -> None:
    """The module with the reward function, and beside it the file that it finds the problems by."""
    told = {one.task: {"origin": one.origin, "problems": _fingerprint(one.problems)} for one in tasks}
    write_whole(folder / TASKS, json.dumps(told, indent=1) + "\n")
    write_whole(folder / REWARD, code)


# --- called by the trainer --------------------------------------------------------------------------------------------


def verdicts(tasks_file: Path, tasks: Sequence[str], ids: Sequence[str], texts: Sequence[str]) -> list[Verdict]:
    """Of one reply each, side by side where the grader can."""
    n_threads = max((_judge(tasks_file, task).n_at_once for task in set(tasks)), default=1)
    with ThreadPoolExecutor(n_threads) as threads:
        return list(threads.map(functools.partial(verdict, tasks_file), tasks, ids, texts))


def verdict(tasks_file: Path, task: str, problem_id: str, text: str) -> Verdict:
    """Of one reply, taken for finished: no trainer says which were cut off."""
    found = _judge(tasks_file, task)
    if problem_id not in found.problems:
        raise DataError(f"{problem_id!r} is no problem of {task} in {tasks_file}; export it again with this problem")
    return found.verdict(found.problems[problem_id], text)


@functools.cache
def _judge(tasks_file: Path, task: str) -> Judge:
    told = json.loads(tasks_file.read_text(encoding="utf-8"))
    if task not in told:
        raise DataError(f"{task!r} is none of the tasks in {tasks_file}: {', '.join(told)}")
    found = judge(told[task]["origin"])
    if _fingerprint(list(found.problems.values())) != told[task]["problems"]:
        raise DataError(f"the data of {task} have changed since {tasks_file} was written; export it again")
    return found


def _fingerprint(problems: Sequence[Problem[Any]]) -> str:
    return digest({problem.id: turns(problem) for problem in problems})
