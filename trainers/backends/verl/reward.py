"""The grader as verl's reward: a function for its loader, and a manager that adds how a completion ended."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.config import PluginChoice
from harness.core.errors import DataError
from harness.core.protocols import Grader, Task
from harness.core.types import Completion, FinishReason, Problem, Tokens
from harness.evaluation.pipeline import verdict_of
from harness.evaluation.setup import with_grader
from harness.trainers.backends.verl.run import run_config
from harness.trainers.config import TrainConfig
from harness.trainers.rollouts import training_problems


class RunGrader:
    """The problems of a run and their grader. Threads may share it: it bounds how many grade at the same time."""

    def __init__(self, grader: Grader[Any], problems: Iterator[Problem[Any]]) -> None:
        self._problems = {problem.id: problem for problem in problems}
        self._grader, self._slots = grader, threading.Semaphore(grader.n_at_once)

    def grade(self, problem_id: str, text: str, finish_reason: FinishReason) -> dict[str, Any]:
        problem = self._problems.get(problem_id)
        if problem is None:
            raise DataError(
                f"{problem_id!r} is not a problem of this run: its data changed after the run began; start another run"
            )
        with self._slots:
            completion = Completion(problem_id, 0, 0, text, finish_reason, Tokens(0, 0))
            verdict = verdict_of(self._grader, problem, completion)
        return {
            # verl takes numbers alone. Rows that are ungraded are left out of the step, whatever their score.
            "score": verdict.reward if verdict.reward is not None else 0.0,
            "ungraded": float(verdict.outcome == "ungraded"),
            "correct": float(verdict.outcome == "correct"),
            "extracted": verdict.extracted,
            "solution": verdict.details.get("solution"),
        }


def run_problems(config: TrainConfig, task: Task[Any]) -> Iterator[Problem[Any]]:
    """Yield the problems of a run in the order of its steps, as our own loop draws them."""
    per_round = config.loop.steps * config.loop.prompts_per_step
    rounds = 1 + min(config.dynamic_sampling.max_extra_rounds, MOST_EXTRA_ROUNDS)
    return itertools.islice(training_problems(task, config.seed, 0), per_round * rounds)


MOST_EXTRA_ROUNDS = 3
"""With dynamic sampling verl draws on; where the data end it starts again at their beginning."""


def run_task(config: TrainConfig) -> Task[Any]:
    choice: PluginChoice = config.task
    return with_grader(choice.build(), config.grader)


@functools.cache
def run_grader() -> RunGrader:
    """Return the grader of this process's run. Its problems are loaded once."""
    config = run_config()
    task = run_task(config)
    return RunGrader(task.grader, run_problems(config, task))


_LOADING = threading.Lock()


def compute_score(
    data_source: str,  # noqa: ARG001
    solution_str: str,
    ground_truth: str,  # noqa: ARG001
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Return the reward of one completion, and what our step records need of its verdict."""
    assert extra_info is not None, "the rows of a run carry the id of their problem in it"
    with _LOADING:
        grader = run_grader()
    return grader.grade(str(extra_info["problem_id"]), solution_str, extra_info.get("finish_reason", "stop"))
