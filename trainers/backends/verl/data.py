"""The prompts of a run as a file of verl's columns, in the order in which the steps draw them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.core.protocols import Task
from harness.core.types import Problem
from harness.models.chat import prompt_ids
from harness.trainers.backends.verl.reward import run_problems
from harness.trainers.config import TrainConfig

PROMPTS = "prompts.parquet"


def write_prompts(config: TrainConfig, task: Task[Any], tokenizer: Any, path: Path, max_prompt_tokens: int) -> int:
    """Write the file; return how many prompts it has. A prompt that is too long is refused, not cut."""
    import pyarrow
    import pyarrow.parquet

    problems = list(run_problems(config, task))
    check_lengths(problems, tokenizer, max_prompt_tokens)
    rows = [prompt_row(problem, config.task.id, index) for index, problem in enumerate(problems)]
    temporary = path.with_name(path.name + ".tmp")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary, compression="zstd")
    temporary.rename(path)
    return len(rows)


def check_lengths(problems: Sequence[Problem[Any]], tokenizer: Any, max_prompt_tokens: int) -> None:
    different = {problem.id: problem for problem in problems}
    lengths = {name: len(prompt_ids(tokenizer, problem.messages)) for name, problem in different.items()}
    too_long = [name for name, length in lengths.items() if length > max_prompt_tokens]
    if too_long:
        longest = max(too_long, key=lambda name: lengths[name])
        raise ConfigError(
            f"{len(too_long)} of {len(lengths)} prompts have more than backend.max_prompt_tokens = {max_prompt_tokens} "
            f"tokens; {longest!r} has {lengths[longest]}. Raise it: verl would stop, or cut prompts"
        )


def prompt_row(problem: Problem[Any], task: str, index: int) -> dict[str, Any]:
    """Return one prompt. Its reference stays here: the reward function loads the task and finds it by the id."""
    return {
        "data_source": task,
        "prompt": [{"role": message.role, "content": message.content} for message in problem.messages],
        "ability": task,
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {"index": index, "split": "train", "problem_id": problem.id},
    }
