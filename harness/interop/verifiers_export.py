"""`harness export verifiers`: our problems as a taskset of verifiers (0.4), with our grader as its reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core.types import Problem
from harness.interop.problems import ProblemsConfig, Row, new_folder, turns, write_rows
from harness.interop.reward_function import REWARD, TASKS, training_sets, verdict, write_reward
from harness.runs.jsonl import write_whole

MODULE = "harness_environment"
PROJECT = "pyproject.toml"

_CODE = f'''"""Made by `harness export verifiers`: the taskset of the id `{MODULE}`."""

import asyncio
import json
from pathlib import Path

import verifiers.v1 as vf

from harness.interop.verifiers_export import score, ungraded

HERE = Path(__file__).parent

__all__ = ["ExportedTaskset"]


class ExportedData(vf.TaskData):
    harness_task: str
    problem_id: str


class ExportedTask(vf.Task[ExportedData, vf.State, vf.TaskConfig]):
    @vf.reward
    async def reward(self, trace) -> float:
        return await asyncio.to_thread(score, *self.question(), trace.last_reply)

    @vf.metric
    async def ungraded(self, trace) -> float:
        return await asyncio.to_thread(ungraded, *self.question(), trace.last_reply)

    def question(self):
        return HERE / "{TASKS}", self.data.harness_task, self.data.problem_id


class ExportedTaskset(vf.Taskset[ExportedTask, vf.TasksetConfig]):
    def load(self):
        for line in (HERE / "ROWS").read_text(encoding="utf-8").splitlines():
            yield ExportedTask(ExportedData(**json.loads(line)), self.config.task)
'''


def export(config: ProblemsConfig, folder: Path) -> list[str]:
    """Write an installable package. Return the names of its files."""
    tasks = training_sets(config)
    rows = [
        {**_prompt(problem), "name": problem.id, "harness_task": one.task, "problem_id": problem.id}
        for one in tasks
        for problem in one.problems
    ]
    data = f"{config.split}.jsonl"
    package = new_folder(folder) / MODULE
    package.mkdir()
    write_rows(package / data, rows)
    write_reward(package, tasks, _CODE.replace("ROWS", data))
    (package / REWARD).rename(package / "__init__.py")
    write_whole(folder / PROJECT, project_text(MODULE, 'dependencies = ["verifiers>=0.4", "flowrl-harness"]', ""))
    return [PROJECT, *(f"{MODULE}/{name}" for name in ("__init__.py", data, TASKS))]


def project_text(module: str, dependencies: str, entry_points: str) -> str:
    """Return the pyproject.toml of an exported package."""
    return f"""[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"

[project]
name = "{module.replace("_", "-")}"
version = "0.1.0"
{dependencies}
{entry_points}
[tool.setuptools]
packages = ["{module}"]

[tool.setuptools.package-data]
{module} = ["*"]
"""


def _prompt(problem: Problem[Any]) -> Row:
    """Return the prompt as verifiers has it: one text of the user, or all messages, and the system's by itself."""
    messages = turns(problem)
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    is_one = len(others) == 1 and others[0]["role"] == "user"
    found: Row = {"prompt": others[0]["content"] if is_one else others}
    return {**found, "system_prompt": system[0]} if system else found


# --- called by verifiers ----------------------------------------------------------------------------------------------


def score(tasks_file: Path, task: str, problem_id: str, text: str) -> float:
    """Return the grader's reward. An ungraded reply has 0, and the metric `ungraded` marks it."""
    found = verdict(tasks_file, task, problem_id, text)
    return found.reward if found.reward is not None else 0.0


def ungraded(tasks_file: Path, task: str, problem_id: str, text: str) -> float:
    return float(verdict(tasks_file, task, problem_id, text).outcome == "ungraded")
