"""The problems of a task as rows of a file for another evaluator, with its sampling and its grader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.core import config as configs
from harness.core.config import PluginChoice, plugin
from harness.core.errors import ConfigError, RunFolderError
from harness.core.protocols import ModelSource, Task
from harness.core.types import DatasetCard, Problem, Sampling
from harness.evaluation.config import SamplingConfig
from harness.evaluation.select import problems_of
from harness.evaluation.setup import with_grader
from harness.models.chat import prompt_text
from harness.models.loading import load_tokenizer, resolve
from harness.runs.jsonl import write_whole

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemsConfig:
    """The problems to export, and their grader."""

    tasks: tuple[PluginChoice, ...] = plugin("tasks")
    grader: PluginChoice | None = plugin("graders", otherwise=None)
    """Grader of every task, in place of its own."""
    split: Literal["train", "validation", "test"] = "test"
    limit: int | None = None
    problem_seed: int = 0

    def __post_init__(self) -> None:
        if len({chosen.id for chosen in self.tasks}) < len(self.tasks):
            raise ValueError("tasks names a task twice; export each configuration of it to its own folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(ProblemsConfig):
    """The sampling as well, as in an evaluation; one reply per problem by default."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    n: int = 1

    def __post_init__(self) -> None:
        ProblemsConfig.__post_init__(self)
        if self.n < 1:
            raise ValueError("n must be at least 1")


@dataclass(frozen=True, slots=True)
class ExportedTask:
    """One task as another evaluator reads it."""

    id: str
    card: DatasetCard
    sampling: Sampling
    n: int
    rows: Sequence[Row]


def export_tasks(config: ExportConfig, model: str | None) -> list[ExportedTask]:
    """Return every task. With a model, its chat template writes the prompts."""
    tokenizer = load_tokenizer(ModelSource(resolve(model))) if model is not None else None
    return [_export_task(chosen, config, tokenizer) for chosen in config.tasks]


def _export_task(chosen: PluginChoice, config: ExportConfig, tokenizer: Any) -> ExportedTask:
    task, problems = problems_in(chosen, config)
    origin = origin_of(chosen, config)
    rows = [_row(problem, origin, tokenizer) for problem in problems]
    return ExportedTask(chosen.id, task.card, config.sampling.over(task.sampling), config.n, rows)


def problems_in(chosen: PluginChoice, config: ProblemsConfig) -> tuple[Task[Any], list[Problem[Any]]]:
    """Return the task with its grader, and its problems."""
    task: Task[Any] = chosen.build()
    if task.is_external:
        raise ConfigError(f"{chosen.id} is a task of another evaluator; use it there")
    return with_grader(task, config.grader), problems_of(task, config.split, config.problem_seed, config.limit)


def origin_of(chosen: PluginChoice, config: ProblemsConfig) -> Row:
    """Return the fields by which another process loads the same problems and their grader."""
    grader = json.dumps(configs.to_tree(config.grader)) if config.grader is not None else None
    return {
        "task": json.dumps(configs.to_tree(chosen)),
        "grader": grader,
        "split": config.split,
        "seed": config.problem_seed,
        "limit": config.limit,
    }


def _row(problem: Problem[Any], origin: Row, tokenizer: Any) -> Row:
    *before, last = problem.messages
    if tokenizer is not None:
        system, prompt = "", prompt_text(tokenizer, problem.messages)[0]
    elif last.role == "user" and [message.role for message in before] in ([], ["system"]):
        system, prompt = "".join(message.content for message in before), last.content
    else:
        raise ConfigError(f"the problems of {problem.task} are conversations; give --model to write them as one text")
    return {
        "id": problem.id,
        "system": system,
        "prompt": prompt,
        "target": _target(problem.reference),
        "messages": turns(problem),
        "tags": dict(problem.tags),
        "harness": origin,
    }


def turns(problem: Problem[Any]) -> list[dict[str, str]]:
    """Return the messages of a problem in the usual chat format."""
    return [{"role": message.role, "content": message.content} for message in problem.messages]


def _target(reference: Any) -> str:
    """Return the reference as text, for people who read a log."""
    answer = getattr(reference, "text", reference)
    return str(answer)


def new_folder(folder: Path) -> Path:
    """Make the folder of an export. A folder with files in it is refused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not empty; name another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
