"""`harness export trl`: our problems as rows for TRL's trainers, with a reward function that calls our grader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.interop.problems import ProblemsConfig, new_folder, turns, write_rows
from harness.interop.reward_function import REWARD, TASKS, training_sets, verdicts, write_reward

_CODE = f'''"""Made by `harness export trl`: `reward` is one of the reward_funcs of TRL's GRPOTrainer."""

from pathlib import Path

from harness.interop.trl_export import rewards

TASKS = Path(__file__).with_name("{TASKS}")


def reward(prompts, completions, problem_id, task, **_):
    return rewards(TASKS, completions, problem_id, task)
'''


def export(config: ProblemsConfig, folder: Path) -> list[str]:
    """Write the folder. Return the names of its files."""
    tasks = training_sets(config)
    rows = [
        {"prompt": turns(problem), "problem_id": problem.id, "task": one.task}
        for one in tasks
        for problem in one.problems
    ]
    new_folder(folder)
    write_rows(folder / f"{config.split}.jsonl", rows)
    write_reward(folder, tasks, _CODE)
    return [f"{config.split}.jsonl", REWARD, TASKS]


# --- called by TRL ----------------------------------------------------------------------------------------------------


def rewards(
    tasks_file: Path, completions: Sequence[Any], problem_ids: Sequence[str], tasks: Sequence[str]
) -> list[float | None]:
    """Return the grader's rewards; None, which TRL leaves out, for an ungraded completion."""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [found.reward for found in verdicts(tasks_file, tasks, problem_ids, texts)]
