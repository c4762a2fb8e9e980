"""Where the completions of a step come from: sampled by an engine, demonstrated by the task, or saved earlier.

With dynamic sampling (DAPO, arXiv 2503.14476, section 3.2), groups whose rewards are all equal are left out and further
problems drawn in their place, for at most so many rounds. What was left out is counted: it was paid for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.core.errors import RunError
from harness.core.protocols import Engine, Task
from harness.core.seeds import derive
from harness.core.types import Completion, Graded, Problem, Tokens
from harness.evaluation.config import Plan
from harness.evaluation.loop import generate_and_grade
from harness.models.chat import prompt_ids
from harness.trainers.config import TrainConfig

Items = Sequence[Graded[Any]]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The completions of one step: all that were sampled, and those trained on, ordered by problem and index."""

    sampled: Items
    chosen: Items
    n_problems_drawn: int
    n_rounds: int
    greedy: Items = ()
    """One completion of each chosen problem at temperature 0, where the objective compares with it."""
    weights_version: int | None = None
    """The version of the policy that the engine sampled from."""
    is_on_policy: bool | None = None
    """For saved rollouts: whether the policy still has the weights that sampled them."""

    def greedy_rewards(self) -> Sequence[float] | None:
        """Return the reward of the greedy completion for each chosen one."""
        by_problem = {item.problem.id: _reward(item) for item in self.greedy}
        return [by_problem[item.problem.id] for item in self.chosen] if by_problem else None


class RolloutSource(Protocol):
    """Gives each step its rollouts. Implemented by Sampler, Demonstrations and SavedRollouts."""

    def start(self, n_problems_drawn: int) -> None:
        """Continue after the first `n_problems_drawn` problems of the task."""
        ...

    def draw(self, step: int) -> Rollouts:
        """Return the rollouts of a step. Steps are drawn in order; all randomness is the step's own."""
        ...


@dataclass(slots=True)
class Sampler:
    """Samples completions with an engine and grades them."""

    config: TrainConfig
    task: Task[Any]
    engine: Engine
    with_greedy: bool
    """Whether to sample a greedy completion of each prompt too."""
    _stream: Iterator[Problem[Any]] = field(default_factory=lambda: iter(()))

    def start(self, n_problems_drawn: int) -> None:
        self._stream = training_problems(self.task, self.config.seed, n_problems_drawn)

    def draw(self, step: int) -> Rollouts:
        wanted, max_rounds = self.config.loop.prompts_per_step, self.config.dynamic_sampling.max_extra_rounds
        asked: dict[str, Problem[Any]] = {}
        sampled: list[Graded[Any]] = []
        n_drawn = 0
        for n_rounds in itertools.count(1):
            missing = wanted - len(_groups(_mixed(sampled) if max_rounds else sampled))
            problems, n = _unseen(self._stream, missing, asked)
            n_drawn += n
            if n_rounds == 1:
                _refuse_too_few(problems, wanted)
            asked |= {problem.id: problem for problem in problems}
            sampled += self._sample(step, problems, self.config.loop.samples_per_prompt)
            done = not max_rounds or len(_groups(_mixed(sampled))) == wanted
            if done or n_rounds > max_rounds or len(problems) < missing:
                break
        usable = _graded(sampled, step)
        chosen = _mixed(sampled) if max_rounds else usable
        # Without any mixed group there is nothing better to train on.
        rollouts = Rollouts(
            sampled, chosen if chosen else usable, n_drawn, n_rounds, weights_version=self.engine.version
        )
        return self._add_greedy(rollouts, step, asked) if self.with_greedy else rollouts

    def _sample(
        self, step: int, problems: Sequence[Problem[Any]], n: int, *, greedy: bool = False
    ) -> list[Graded[Any]]:
        """Return completions of each problem with their verdicts, ordered by problem and index."""
        sampling = self.config.sampling.over(self.task.sampling)
        if greedy:
            sampling = dataclasses.replace(sampling, temperature=0.0)
        plan = Plan(n, sampling, self.config.seed, ("greedy" if greedy else "train", step))
        order = {problem.id: i for i, problem in enumerate(problems)}
        graded = generate_and_grade(problems, self.engine, self.task.grader, plan)
        return sorted(graded, key=lambda item: (order[item.problem.id], item.completion.index))

    def _add_greedy(self, rollouts: Rollouts, step: int, asked: Mapping[str, Problem[Any]]) -> Rollouts:
        """Add a greedy completion of each chosen problem; drop problems whose greedy completion can't be graded."""
        problems = [asked[problem_id] for problem_id in _groups(rollouts.chosen)]
        greedy = _graded(self._sample(step, problems, 1, greedy=True), step)
        known = set(_groups(greedy))
        chosen = [item for item in rollouts.chosen if item.problem.id in known]
        return dataclasses.replace(rollouts, chosen=chosen, greedy=greedy)


@dataclass(slots=True)
class Demonstrations:
    """Takes the task's own solutions as completions, for supervised training."""

    config: TrainConfig
    task: Any
    """A task with `demonstrate`."""
    tokenizer: Any
    _stream: Iterator[Problem[Any]] = field(default_factory=lambda: iter(()))

    def start(self, n_problems_drawn: int) -> None:
        self._stream = training_problems(self.task, self.config.seed, n_problems_drawn)

    def draw(self, step: int) -> Rollouts:
        loop = self.config.loop
        problems, n_drawn = _unseen(self._stream, loop.prompts_per_step, {})
        _refuse_too_few(problems, loop.prompts_per_step)
        sampling = self.config.sampling.over(self.task.sampling)
        plan = Plan(loop.samples_per_prompt, sampling, self.config.seed, ("train", step))
        sampled = [
            self._demonstrate(problem, index, seed)
            for problem in problems
            for index, seed in enumerate(plan.seeds(problem))
        ]
        return Rollouts(sampled, _graded(sampled, step), n_drawn, n_rounds=1)

    def _demonstrate(self, problem: Problem[Any], index: int, seed: int) -> Graded[Any]:
        """Return a demonstration with its verdict; like a completion of the model, it ends with the end token."""
        text = self.task.demonstrate(problem, seed)
        prompt = prompt_ids(self.tokenizer, problem.messages)
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        tokens = Tokens(len(prompt), len(ids), tuple(prompt), tuple(ids))
        completion = Completion(problem.id, index, seed, text, "stop", tokens)
        return Graded(problem, completion, self.task.grader.grade(problem, completion))


def training_problems(task: Task[Any], seed: int, n_drawn: int) -> Iterator[Problem[Any]]:
    """Yield the endless stream after its first `n_drawn`; each pass over a finite split has an order of its own."""
    passes = (task.problems("train", derive(seed, "problems", i)) for i in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(passes), n_drawn, None)


def _refuse_too_few(problems: Sequence[Problem[Any]], wanted: int) -> None:
    if len(problems) < wanted:
        raise RunError(f"the train split has fewer than prompts_per_step = {wanted} different problems")


def _graded(items: Items, step: int) -> list[Graded[Any]]:
    usable = [item for item in items if item.verdict.outcome != "ungraded"]
    if not usable:
        raise RunError(f"step {step}: none of {len(items)} completions could be graded: {items[0].verdict.reason}")
    return usable


def _reward(item: Graded[Any]) -> float:
    assert item.verdict.reward is not None, "ungraded completions are dropped before"
    return item.verdict.reward


def _groups(items: Items) -> list[str]:
    return list(dict.fromkeys(item.problem.id for item in items))


def _mixed(items: Items) -> list[Graded[Any]]:
    """Return the graded completions of problems whose rewards differ."""
    rewards: dict[str, set[float]] = {}
    usable = [item for item in items if item.verdict.outcome != "ungraded"]
    for item in usable:
        rewards.setdefault(item.problem.id, set()).add(_reward(item))
    return [item for item in usable if len(rewards[item.problem.id]) > 1]


def _unseen(
    stream: Iterator[Problem[Any]], n_problems: int, seen: Mapping[str, Problem[Any]]
) -> tuple[list[Problem[Any]], int]:
    """Return the next different problems that are not in `seen`, and how many were drawn from the stream for them.

    There are fewer than `n_problems` where the split has no more.
    """
    chosen: dict[str, Problem[Any]] = {}
    n_drawn = 0
    while len(chosen) < n_problems and n_drawn <= 100 * (n_problems + len(seen)):
        problem = next(stream)
        n_drawn += 1
        if problem.id not in seen:
            chosen.setdefault(problem.id, problem)
    return list(chosen.values()), n_drawn
