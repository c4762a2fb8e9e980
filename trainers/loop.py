"""The training loop: sample, grade, credit, loss, step, sync, record. The same for every objective.

Nothing in a step depends on anything but the run's seed, the step's number and the state in the checkpoint, so a
resumed run repeats an unbroken one, to the bit where the arithmetic does.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness import evaluate
from harness.core.errors import RunError
from harness.core.progress import Progress
from harness.core.protocols import Batch, Credit, Engine, Objective, PolicyEngine, PolicyOutputs, Task, Totals
from harness.core.seeds import derive
from harness.core.store import RunStore
from harness.core.types import Graded, Problem
from harness.trainers.batch import collate, microbatch, microbatches, minibatches, select
from harness.trainers.checkpoint import Checkpoints, Position
from harness.trainers.demonstrations import DemonstrationEngine
from harness.trainers.optimizer import clip_gradients, make_optimizer, set_learning_rates
from harness.trainers.policy import Policy
from harness.trainers.record import StepRecord
from harness.trainers.settings import TrainConfig
from harness.trainers.trackers import Tracker

FROZEN_FACTOR = 4
"""A pass without gradient keeps no activations, so its micro-batches may be larger."""
SHOWN = ("reward", "solve_rate")


@dataclass(slots=True)
class Trainer:
    """Everything a run is made of. `fit` is the loop; a step is `_step`; the rest are its parts, in order."""

    config: TrainConfig
    task: Task[Any]
    objective: Objective
    engine: PolicyEngine
    policy: Policy
    reference: Policy | None
    tokenizer: Any
    store: RunStore
    trackers: Sequence[Tracker]
    progress: Progress
    hold_out: Callable[[], None]
    """Evaluates the newest checkpoint's policy on held-out problems."""

    def fit(self) -> None:
        loop = self.config.loop
        optimizer = make_optimizer(self.policy.module, self.objective, self.config.optimizer)
        checkpoints = Checkpoints(self.store.folder, self.config.checkpoint.keep)
        position = self._resume(checkpoints, optimizer)
        if position.step > 0 and self._is_held_out(position.step):
            self.hold_out()  # a kill may have come between that checkpoint and its evaluation
        stream = itertools.islice(self._training_problems(), position.n_problems_drawn, None)
        self.progress.begin("train", loop.steps, position.step)
        for step in range(position.step + 1, loop.steps + 1):
            problems, n_drawn = _distinct(stream, loop.prompts_per_step)
            row = self._step(step, problems, optimizer)
            position = Position(step, position.n_problems_drawn + n_drawn)
            self._record(row)
            if self._is_due(step):
                checkpoints.save(position, self.policy.module, self.tokenizer, optimizer, self.objective)
            if self._is_held_out(step):
                self.hold_out()
                self.progress.begin("train", loop.steps, step)
        self.progress.end()

    def _step(self, step: int, problems: Sequence[Problem[Any]], optimizer: torch.optim.Optimizer) -> dict[str, float]:
        record = StepRecord(step)
        with record.phase("sample"):
            graded = self._sample(step, problems)
        usable = [item for item in graded if item.verdict.outcome != "ungraded"]
        if not usable:
            raise RunError(
                f"step {step}: none of {len(graded)} completions could be graded: {graded[0].verdict.reason}"
            )
        batch = collate(usable, str(self.policy.module.device))
        record.note_samples(graded, batch)
        with record.phase("score"):
            frozen = self._frozen(batch)
            credit = self.objective.credit(batch, frozen)
        with record.phase("update"), torch.random.fork_rng():
            torch.manual_seed(derive(self.config.seed, "update", step))
            record.note(lr=set_learning_rates(optimizer, self.config.optimizer, step))
            for _ in range(self.config.loop.epochs):
                for rows, totals in minibatches(batch, self.config.loop.minibatches_per_step):
                    self._update(batch, frozen, credit, rows, totals, optimizer, record)
        with record.phase("sync"):
            self.engine.load_weights(self.policy.tensors(), step)
        return record.row()

    # --- the parts of a step

    def _sample(self, step: int, problems: Sequence[Problem[Any]]) -> list[Graded[Any]]:
        """Completions of each problem with their verdicts, ordered by problem and index."""
        engine: Engine = self.engine
        if self.objective.source == "demonstrations":
            engine = DemonstrationEngine(self.task, self.tokenizer, problems)
        sampling = self.config.sampling.over(self.task.sampling)
        plan = evaluate.Plan(self.config.loop.samples_per_prompt, sampling, self.config.seed, ("train", step))
        order = {problem.id: i for i, problem in enumerate(problems)}
        graded = evaluate.run(problems, engine, self.task.grader, plan)
        return sorted(graded, key=lambda item: (order[item.problem.id], item.completion.index))

    @torch.no_grad()
    def _frozen(self, batch: Batch) -> PolicyOutputs:
        """Once a batch, before its updates: what the policy was, and the reference where it is needed."""
        needs = self.objective.needs
        may_trust_engine = self._engine_knows_logp() and "completion_hidden" not in needs
        if may_trust_engine and batch.logp_behaviour is not None:
            outputs = PolicyOutputs(logp=batch.logp_behaviour)
        else:
            outputs = self._forward_all(self.policy, batch, needs)
        if self.reference is None:
            return outputs
        return dataclasses.replace(outputs, logp_reference=self._forward_all(self.reference, batch, frozenset()).logp)

    def _engine_knows_logp(self) -> bool:
        choice = self.config.loop.logp_old
        return choice == "engine" or (choice == "auto" and self.engine.logp_is_exact)

    def _forward_all(self, policy: Policy, batch: Batch, needs: frozenset[Any]) -> PolicyOutputs:
        """A pass over the whole batch in micro-batches, put together again in its order."""
        everything = torch.arange(len(batch.rewards), device=batch.rewards.device)
        pieces = list(microbatches(batch, everything, FROZEN_FACTOR * self.config.loop.tokens_per_microbatch))
        outputs = [policy.forward(microbatch(batch, rows, batch.totals), needs) for rows in pieces]
        order = torch.cat(pieces).argsort()
        joined = {
            field.name: torch.cat([getattr(output, field.name) for output in outputs])[order]
            for field in dataclasses.fields(PolicyOutputs)
            if getattr(outputs[0], field.name) is not None
        }
        return PolicyOutputs(**joined)

    def _update(
        self,
        batch: Batch,
        frozen: PolicyOutputs,
        credit: Credit,
        rows: torch.Tensor,
        totals: Totals,
        optimizer: torch.optim.Optimizer,
        record: StepRecord,
    ) -> None:
        """One optimiser step on one minibatch."""
        optimizer.zero_grad(set_to_none=True)
        for some in microbatches(batch, rows, self.config.loop.tokens_per_microbatch):
            part = microbatch(batch, some, totals)
            live = self.policy.forward(part, self.objective.needs - {"reference_logp"})
            result = self.objective.loss(part, live, select(frozen, some), select(credit, some))
            result.loss.backward()  # type: ignore[no-untyped-call]
            record.add({"loss": (float(result.loss.detach()), 0.0), **result.metrics})
        norm = clip_gradients(optimizer, self.config.optimizer.grad_clip)
        if not math.isfinite(norm):
            raise RunError(
                f"the gradient is not finite ({norm}); lower the learning rate, or look at the step before in "
                "steps.jsonl. The newest checkpoint is from before it"
            )
        optimizer.step()
        record.add({"loss": (0.0, 1.0), "grad_norm": (norm, 1.0)})

    # --- around a step

    def _resume(self, checkpoints: Checkpoints, optimizer: torch.optim.Optimizer) -> Position:
        """The newest checkpoint's state; step records after it belong to steps that are done again."""
        newest = checkpoints.newest()
        position = Position(0, 0) if newest is None else checkpoints.restore(newest, optimizer, self.objective)
        kept = [row for row in self.store.view().steps() if row["step"] <= position.step]
        self.store.steps.rewrite(iter(kept))
        for tracker in self.trackers:
            tracker.resume(position.step)
        self.engine.load_weights(self.policy.tensors(), position.step)
        return position

    def _training_problems(self) -> Iterator[Problem[Any]]:
        """An endless stream: a finite split comes again and again, in another order each time."""
        for number in itertools.count():
            yield from self.task.problems("train", derive(self.config.seed, "problems", number))

    def _record(self, row: dict[str, float]) -> None:
        self.store.steps.append(row)
        for tracker in self.trackers:
            tracker.log(row)
        self.progress.advance(figures={name: row[name] for name in SHOWN})

    def _is_due(self, step: int) -> bool:
        is_last = step == self.config.loop.steps
        return is_last or step % self.config.checkpoint.every_steps == 0 or self._is_held_out(step)

    def _is_held_out(self, step: int) -> bool:
        every = self.config.held_out.every_steps
        return every > 0 and (step % every == 0 or step == self.config.loop.steps)


def _distinct(stream: Iterator[Problem[Any]], n_problems: int) -> tuple[list[Problem[Any]], int]:
    """The next problems, no one twice, and how many were taken from the stream for it."""
    chosen: dict[str, Problem[Any]] = {}
    n_drawn = 0
    while len(chosen) < n_problems:
        problem = next(stream)
        n_drawn += 1
        chosen.setdefault(problem.id, problem)
        if n_drawn > 100 * n_problems:
            raise RunError(f"the train split has fewer than prompts_per_step = {n_problems} different problems")
    return list(chosen.values()), n_drawn
