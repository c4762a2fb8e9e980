"""Rollouts: problems drawn from the task, dynamic sampling, greedy completions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from stub_engine import StubEngine

from harness.core.errors import RunError
from harness.core.protocols import Grader, Task
from harness.core.types import Completion, Graded, Problem, Request, Sampling, Tokens, Verdict
from harness.trainers.config import (
    DynamicSamplingConfig,
    LoopConfig,
)
from harness.trainers.objectives.grpo import Grpo
from harness.trainers.objectives.remax import ReMax
from harness.trainers.rollouts import Rollouts, Sampler, training_problems


class FakeTask(Task[Any], Grader[Any]):
    """Problems named by their number; `mixed` of them have one right answer in two, the others none."""

    def __init__(self, mixed: set[int], n_problems: int = 100) -> None:
        self.mixed, self.n_problems = mixed, n_problems
        self.sampling = Sampling(max_tokens=4)
        self.grader = self

    def problems(self, split: str, seed: int) -> Iterator[Problem[Any]]:
        return (Problem(str(i), "fake", (), None) for i in range(self.n_problems))

    def grade(self, problem: Problem[Any], completion: Completion) -> Verdict:
        right = int(problem.id) in self.mixed and completion.index == 0
        return Verdict("correct" if right else "incorrect", float(right))


class FakeEngine(StubEngine):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            yield Completion(request.problem_id, request.index, request.seed, "", "stop", Tokens(1, 1, (1,), (2,)))


def draw(task: FakeTask, objective: Any, max_extra_rounds: int) -> tuple[Rollouts, FakeEngine]:
    engine = FakeEngine()

    @dataclasses.dataclass
    class Settings:
        loop: LoopConfig
        dynamic_sampling: DynamicSamplingConfig
        sampling: Any = dataclasses.field(default_factory=lambda: AsTheTask())
        seed: int = 0

    settings: Any = Settings(
        LoopConfig(steps=1, prompts_per_step=3, samples_per_prompt=2),
        DynamicSamplingConfig(max_extra_rounds=max_extra_rounds),
    )
    sampler = Sampler(settings, task, engine, "greedy_reward" in objective.needs)  # type: ignore[arg-type]
    sampler.start(0)
    return sampler.draw(1), engine


class AsTheTask:
    def over(self, default: Sampling) -> Sampling:
        return default


def names(items: Iterable[Graded[Any]]) -> list[str]:
    return [f"{item.problem.id}.{item.completion.index}" for item in items]


def test_every_completion_is_chosen_without_dynamic_sampling() -> None:
    rollouts, _ = draw(FakeTask({1}), Grpo(Grpo.Config()), 0)
    assert names(rollouts.chosen) == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"] == names(rollouts.sampled)
    assert (rollouts.n_problems_drawn, rollouts.n_rounds) == (3, 1)


def test_dynamic_sampling_replaces_groups_of_equal_rewards() -> None:
    rollouts, engine = draw(FakeTask({1, 4, 5, 7}), Grpo(Grpo.Config()), 5)
    assert names(rollouts.chosen) == ["1.0", "1.1", "4.0", "4.1", "5.0", "5.1"]
    # 0 1 2, then two for the missing, then one more
    assert rollouts.n_problems_drawn == 6
    assert rollouts.n_rounds == 3
    assert len(rollouts.sampled) == len(engine.asked) == 12


def test_dynamic_sampling_is_bounded() -> None:
    rollouts, _ = draw(FakeTask({1, 9}), Grpo(Grpo.Config()), 2)
    assert names(rollouts.chosen) == ["1.0", "1.1"]
    assert rollouts.n_rounds == 3
    nothing, _ = draw(FakeTask(set()), Grpo(Grpo.Config()), 2)
    assert len(nothing.chosen) == len(nothing.sampled) == 18, "nothing is mixed: there is nothing better to take"


def test_dynamic_sampling_ends_where_the_split_does() -> None:
    rollouts, _ = draw(FakeTask({1}, n_problems=4), Grpo(Grpo.Config()), 50)
    assert names(rollouts.chosen) == ["1.0", "1.1"]
    assert len(rollouts.sampled) == 8
    with pytest.raises(RunError, match="fewer than prompts_per_step = 3"):
        draw(FakeTask({1}, n_problems=2), Grpo(Grpo.Config()), 0)


def test_the_stream_of_problems_continues_after_those_drawn() -> None:
    stream = training_problems(FakeTask(set(), 3), 0, n_drawn=2)  # type: ignore[arg-type]
    assert [p.id for p in itertools.islice(stream, 5)] == ["2", "0", "1", "2", "0"]


def test_a_greedy_completion_of_each_prompt_is_sampled_where_needed() -> None:
    rollouts, engine = draw(FakeTask({1}), ReMax(ReMax.Config()), 0)
    greedy = [request for request in engine.asked if request.sampling.temperature == 0]
    assert [(request.problem_id, request.index) for request in greedy] == [("0", 0), ("1", 0), ("2", 0)]
    assert rollouts.greedy_rewards() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert len(rollouts.sampled) == 6
    assert draw(FakeTask({1}), Grpo(Grpo.Config()), 0)[0].greedy_rewards() is None
