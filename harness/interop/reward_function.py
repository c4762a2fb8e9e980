"""The reward function that the exports for trainers share: verdicts of replies by problem id."""

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
class TrainingSet:
    """The problems of one task, its grader, and the origin by which another process loads both."""

    task: str
    grader: str
    problems: Sequence[Problem[Any]]
    origin: Mapping[str, Any]


def training_sets(config: ProblemsConfig) -> list[TrainingSet]:
    """Return the problems of every task of the config."""
    found = []
    for chosen in config.tasks:
        task, problems = problems_in(chosen, config)
        found.append(TrainingSet(chosen.id, grader_name(task, config.grader), problems, origin_of(chosen, config)))
    return found


def write_reward(folder: Path, tasks: Sequence[TrainingSet], code: str) -> None:
    """Write the module with the reward function, and the file by which it loads the problems."""
    origins = {one.task: {"origin": one.origin, "problems": _fingerprint(one.problems)} for one in tasks}
    write_whole(folder / TASKS, json.dumps(origins, indent=1) + "\n")
    write_whole(folder / REWARD, code)


# --- called by the trainer --------------------------------------------------------------------------------------------


def verdicts(tasks_file: Path, tasks: Sequence[str], ids: Sequence[str], texts: Sequence[str]) -> list[Verdict]:
    """Grade one reply each, in as many threads as the graders allow."""
    n_threads = max((_judge(tasks_file, task).n_at_once for task in set(tasks)), default=1)
    with ThreadPoolExecutor(n_threads) as threads:
        return list(threads.map(functools.partial(verdict, tasks_file), tasks, ids, texts))


def verdict(tasks_file: Path, task: str, problem_id: str, text: str) -> Verdict:
    """Grade one reply. It counts as finished, because trainers do not pass on which replies were cut off."""
    found = _judge(tasks_file, task)
    if problem_id not in found.problems:
        raise DataError(f"{problem_id!r} is not a problem of {task} in {tasks_file}; export it again with this problem")
    return found.verdict(found.problems[problem_id], text)


@functools.cache
def _judge(tasks_file: Path, task: str) -> Judge:
    tasks = json.loads(tasks_file.read_text(encoding="utf-8"))
    if task not in tasks:
        raise DataError(f"{task!r} is not a task in {tasks_file}, which has {', '.join(tasks)}")
    found = judge(tasks[task]["origin"])
    if _fingerprint(list(found.problems.values())) != tasks[task]["problems"]:
        raise DataError(f"the data of {task} changed after {tasks_file} was written; export it again")
    return found


def _fingerprint(problems: Sequence[Problem[Any]]) -> str:
    return digest({problem.id: turns(problem) for problem in problems})
