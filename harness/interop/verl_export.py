"""`harness export verl`: our problems in verl's columns, with a reward function that calls our grader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.types import Problem
from harness.interop.problems import ProblemsConfig, Row, new_folder, turns
from harness.interop.reward_function import REWARD, TASKS, TrainingSet, training_sets, verdict, write_reward

_CODE = f'''"""Made by `harness export verl`: name this file as verl's reward.custom_reward_function.path."""

from pathlib import Path

from harness.interop.verl_export import score

TASKS = Path(__file__).with_name("{TASKS}")


def compute_score(data_source, solution_str, ground_truth, extra_info=None, ungraded_score=0.0, **_):
    return score(TASKS, data_source, solution_str, extra_info, ungraded_score)
'''


def export(config: ProblemsConfig, folder: Path) -> list[str]:
    """Write the folder. Return the names of its files."""
    import pyarrow
    import pyarrow.parquet

    tasks = training_sets(config)
    rows = [_row(one, problem, index, config.split) for one in tasks for index, problem in enumerate(one.problems)]
    new_folder(folder)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{config.split}.parquet")
    write_reward(folder, tasks, _CODE)
    return [f"{config.split}.parquet", REWARD, TASKS]


def _row(one: TrainingSet, problem: Problem[Any], index: int, split: str) -> Row:
    return {
        "data_source": one.task,
        "prompt": turns(problem),
        "ability": one.grader,
        "reward_model": {"style": "rule", "ground_truth": ground_truth(problem.reference)},
        "extra_info": {"index": index, "split": split, "problem_id": problem.id},
    }


def ground_truth(reference: Any) -> str:
    """Return the answer if it is a text, for people who read the file. Tests of programs are not exported."""
    answer = getattr(reference, "text", reference)
    return answer if isinstance(answer, str) else ""


# --- called by verl ---------------------------------------------------------------------------------------------------


def score(
    tasks_file: Path, data_source: str, text: str, extra_info: Mapping[str, Any] | None, ungraded_score: float
) -> dict[str, float]:
    """Return the grader's reward, or `ungraded_score` for an ungraded reply, which is counted in `ungraded`.

    verl accepts only numbers: a NaN would spoil its whole group, and an exception would end the training.
    """
    problem_id = str(extra_info["problem_id"]) if extra_info is not None else ""
    found = verdict(tasks_file, data_source, problem_id, text)
    reward = found.reward if found.reward is not None else ungraded_score
    return {"score": reward, "ungraded": float(found.outcome == "ungraded")}
