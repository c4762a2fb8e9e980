"""`harness export inspect`: our tasks as a file that `inspect eval` runs, graded by our graders."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.core.types import FinishReason, Sampling, Verdict
from harness.interop.problems import ExportConfig, export_tasks, new_folder, read_rows, write_rows
from harness.interop.verdict_server import verdict
from harness.runs.jsonl import write_whole

FILE = "harness_tasks.py"

_HEAD = '''"""Made by `harness export inspect`: run `inspect eval {file}`, or `inspect eval {file}@{first}`."""

from pathlib import Path

from inspect_ai import task

from harness.interop.inspect_export import task_of
'''
_TASK = """

@task
def {id}():
    return task_of(Path(__file__).with_name("{id}.jsonl"), epochs={n}, config={config})
"""


def export(config: ExportConfig, folder: Path) -> list[str]:
    """Write the folder. Return the names of the tasks in its file."""
    tasks = export_tasks(config, None)
    for task in tasks:
        if not task.id.isidentifier():
            raise ConfigError(f"{task.id!r} is not a Python name, and inspect names tasks by functions; leave it out")
    parts = [_TASK.format(id=task.id, n=task.n, config=_settings(task.sampling)) for task in tasks]
    new_folder(folder)
    for task in tasks:
        write_rows(folder / f"{task.id}.jsonl", task.rows)
    write_whole(folder / FILE, "".join([_HEAD.format(file=FILE, first=tasks[0].id), *parts]))
    return [task.id for task in tasks]


_IN_INSPECT = {"stop": "stop_seqs"} | {name: name for name in ("max_tokens", "temperature", "top_p", "top_k")}


def _settings(sampling: Sampling) -> dict[str, Any]:
    """Return the arguments of inspect's GenerateConfig, which ignores those it does not know."""
    settings = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, **sampling.changed()}
    for name in settings.keys() - _IN_INSPECT.keys():
        raise ConfigError(f"inspect has no sampling option {name}; leave sampling.{name} off")
    return {_IN_INSPECT[name]: list(value) if name == "stop" else value for name, value in settings.items()}


# --- called by inspect ------------------------------------------------------------------------------------------------


def task_of(path: Path, epochs: int, config: Mapping[str, Any]) -> Any:
    """Return the inspect task of one file of rows."""
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import accuracy, scorer, stderr
    from inspect_ai.solver import generate

    samples = [_sample(row) for row in read_rows(path)]
    harness_scorer = scorer(metrics=[accuracy(), stderr()], name="harness")(_scorer)
    return Task(
        dataset=MemoryDataset(samples, name=path.stem, location=str(path)),
        solver=generate(),
        scorer=harness_scorer(),
        epochs=epochs,
        config=GenerateConfig(**config),
    )


def _sample(row: Mapping[str, Any]) -> Any:
    from inspect_ai.dataset import Sample

    metadata = {"row": dict(row), **row["tags"]}
    return Sample(id=row["id"], input=messages_of(row["messages"]), target=row["target"], metadata=metadata)


def messages_of(turns: Any) -> list[Any]:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "assistant": ChatMessageAssistant}
    return [kinds.get(turn["role"], ChatMessageUser)(content=turn["content"]) for turn in turns]


def _scorer() -> Any:
    async def score(state: Any, target: Any) -> Any:  # noqa: ARG001
        cut_off = state.output.stop_reason in ("max_tokens", "model_length")
        reason: FinishReason = "length" if cut_off else "stop"
        return score_of(await asyncio.to_thread(verdict, state.metadata["row"], state.output.completion, reason))

    return score


def score_of(found: Verdict) -> Any:
    """Return a verdict as inspect's score. An ungraded one is unscored, and enters no mean."""
    from inspect_ai.scorer import CORRECT, INCORRECT, Score

    if found.outcome == "ungraded":
        return Score.unscored(explanation=found.reason, answer=found.extracted)
    value = CORRECT if found.outcome == "correct" else INCORRECT
    metadata = {"reward": found.reward, **found.details}
    return Score(value=value, answer=found.extracted, explanation=found.reason or None, metadata=metadata)
