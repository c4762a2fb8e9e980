"""What a step learns from: problems drawn from the task, their completions sampled and graded.

With dynamic sampling (DAPO, arXiv 2503.14476, section 3.2), groups whose rewards are all equal are left out and further
problems drawn in their place, for at most so many rounds. What was left out is counted: it was paid for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import RunError
from harness.core.protocols import Engine, Objective, Task
from harness.core.seeds import derive
from harness.core.types import Graded, Problem
from harness.evaluation import loop
from harness.evaluation.config import Plan
from harness.trainers.config import TrainConfig
from harness.trainers.demonstrations import DemonstrationEngine

Items = Sequence[Graded[Any]]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Of one step: everything that was sampled, and the part that is trained on, ordered by problem and index."""

    sampled: Items
    chosen: Items
    n_problems_drawn: int
    n_rounds: int
    greedy: Items = ()
    """One completion of each chosen problem at temperature 0, where the objective compares with it."""
    is_on_policy: bool | None = None
    """Of saved ones: whether the policy that learns from them is still the one that sampled them."""

    def greedy_rewards(self) -> Sequence[float] | None:
        """Of each chosen completion's problem."""
        by_problem = {item.problem.id: _reward(item) for item in self.greedy}
        return [by_problem[item.problem.id] for item in self.chosen] if by_problem else None


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws a step's rollouts. All randomness is the step's own."""

    config: TrainConfig
    task: Task[Any]
    objective: Objective
    engine: Engine
    tokenizer: Any

    def problems(self, n_drawn: int) -> Iterator[Problem[Any]]:
        """The endless stream after its first `n_drawn`: a finite split comes again and again, in another order."""
        passes = (self.task.problems("train", derive(self.config.seed, "problems", i)) for i in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(passes), n_drawn, None)

    def draw(self, step: int, stream: Iterator[Problem[Any]]) -> Rollouts:
        wanted, max_rounds = self.config.loop.prompts_per_step, self.config.dynamic_sampling.max_extra_rounds
        asked: dict[str, Problem[Any]] = {}
        sampled: list[Graded[Any]] = []
        n_drawn = 0
        for n_rounds in itertools.count(1):
            missing = wanted - len(_groups(_mixed(sampled) if max_rounds else sampled))
            problems, n = _unseen(stream, missing, asked)
            n_drawn += n
            if len(problems) < missing and n_rounds == 1:
                raise RunError(f"the train split has fewer than prompts_per_step = {wanted} different problems")
            asked |= {problem.id: problem for problem in problems}
            sampled += self._sample(step, problems, self.config.loop.samples_per_prompt)
            done = not max_rounds or len(_groups(_mixed(sampled))) == wanted
            if done or n_rounds > max_rounds or len(problems) < missing:
                break
        usable = _graded(sampled, step)
        chosen = _mixed(sampled) if max_rounds else usable
        # Where no group is mixed there is nothing better to take.
        rollouts = Rollouts(sampled, chosen if chosen else usable, n_drawn, n_rounds)
        return self._with_greedy(rollouts, step, asked) if "greedy_reward" in self.objective.needs else rollouts

    def _sample(
        self, step: int, problems: Sequence[Problem[Any]], n: int, *, greedy: bool = False
    ) -> list[Graded[Any]]:
        """Completions of each problem with their verdicts, ordered by problem and index."""
        engine = self.engine
        if self.objective.source == "demonstrations":
            engine = DemonstrationEngine(self.task, self.tokenizer, problems)
        sampling = self.config.sampling.over(self.task.sampling)
        if greedy:
            sampling = dataclasses.replace(sampling, temperature=0.0)
        plan = Plan(n, sampling, self.config.seed, ("greedy" if greedy else "train", step))
        order = {problem.id: i for i, problem in enumerate(problems)}
        graded = loop.run(problems, engine, self.task.grader, plan)
        return sorted(graded, key=lambda item: (order[item.problem.id], item.completion.index))

    def _with_greedy(self, rollouts: Rollouts, step: int, asked: Mapping[str, Problem[Any]]) -> Rollouts:
        """With a greedy completion of each chosen problem; a problem whose greedy one can't be graded is left out."""
        problems = [asked[problem_id] for problem_id in _groups(rollouts.chosen)]
        greedy = _graded(self._sample(step, problems, 1, greedy=True), step)
        known = set(_groups(greedy))
        chosen = [item for item in rollouts.chosen if item.problem.id in known]
        return dataclasses.replace(rollouts, chosen=chosen, greedy=greedy)


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
    """What could be graded, of the problems whose rewards differ."""
    rewards: dict[str, set[float]] = {}
    usable = [item for item in items if item.verdict.outcome != "ungraded"]
    for item in usable:
        rewards.setdefault(item.problem.id, set()).add(_reward(item))
    return [item for item in usable if len(rewards[item.problem.id]) > 1]


def _unseen(
    stream: Iterator[Problem[Any]], n_problems: int, seen: Mapping[str, Problem[Any]]
) -> tuple[list[Problem[Any]], int]:
    """The next problems that are not among the seen, no one twice, and how many were taken from the stream for it.

    Fewer where the split has no more.
    """
    chosen: dict[str, Problem[Any]] = {}
    n_drawn = 0
    while len(chosen) < n_problems and n_drawn <= 100 * (n_problems + len(seen)):
        problem = next(stream)
        n_drawn += 1
        if problem.id not in seen:
            chosen.setdefault(problem.id, problem)
    return list(chosen.values()), n_drawn
