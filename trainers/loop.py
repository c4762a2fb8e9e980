"""The training loop: sample, grade, credit, loss, step, sync, record. The same for every objective.

`rollouts` draws what a step learns from, `learner` moves the weights. Nothing in a step depends on anything but the
run's seed, the step's number and the state in the checkpoint, so a resumed run repeats an unbroken one, to the bit
where the arithmetic does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.core.progress import Progress
from harness.core.protocols import Objective, PolicyEngine, SleepingEngine, Task
from harness.core.types import Problem
from harness.runs.folder import RunWriter
from harness.trainers.batch import collate
from harness.trainers.checkpoint import Checkpoints, Position
from harness.trainers.config import TrainConfig
from harness.trainers.diagnostics import Watch
from harness.trainers.engine_mismatch import largest_gap
from harness.trainers.learner import Learner
from harness.trainers.optimizer import make_optimizer
from harness.trainers.policy.lora import AdapterReference
from harness.trainers.policy.model import Policy
from harness.trainers.reward_shaping import trained_rows
from harness.trainers.rollout_file import RolloutWriter
from harness.trainers.rollouts import Sampler
from harness.trainers.saved_rollouts import Replay, weights_digest
from harness.trainers.steering import Steering
from harness.trainers.step_metrics import StepRecord
from harness.trainers.trackers import Tracker

SHOWN = ("reward", "solve_rate")


@dataclass(slots=True)
class Trainer:
    """Everything a run is made of. `fit` is the loop; a step is `_step`; the rest are its parts, in order."""

    config: TrainConfig
    task: Task[Any]
    objective: Objective
    engine: PolicyEngine
    policy: Policy
    reference: Policy | AdapterReference | None
    tokenizer: Any
    store: RunWriter
    trackers: Sequence[Tracker]
    progress: Progress
    hold_out: Callable[[], None]
    """Evaluates the newest checkpoint's policy on held-out problems."""
    replay: Replay | None = None
    """Where rollouts come from in the place of the engine."""
    writer: RolloutWriter | None = None
    """Where what was sampled is kept."""

    def fit(self) -> None:
        loop = self.config.loop
        learner, sampler, watch = self._learner(), self._sampler(), Watch(self.config.warnings)
        checkpoints = Checkpoints(self.store.folder, self.config.checkpoint.keep)
        position = self._resume(checkpoints, learner, watch)
        if position.step > 0 and self._is_held_out(position.step):
            self.hold_out()  # a kill may have come between that checkpoint and its evaluation
        stream = sampler.problems(position.n_problems_drawn)
        self.progress.begin("train", loop.steps, position.step)
        for step in range(position.step + 1, loop.steps + 1):
            row, n_drawn = self._step(step, sampler, stream, learner)
            position = Position(step, position.n_problems_drawn + n_drawn)
            self._record(row, watch)
            if self._is_due(step):
                parts = (self.policy, self.tokenizer, learner.optimizer, self.objective, learner.steering)
                self.store.sync()  # a checkpoint is never ahead of its records
                checkpoints.save(position, *parts, learner.changed_reference())
            if self._is_held_out(step):
                self.hold_out()
                self.progress.begin("train", loop.steps, step)
        self.progress.end()

    def _step(
        self, step: int, sampler: Sampler | Replay, stream: Iterator[Problem[Any]], learner: Learner
    ) -> tuple[dict[str, float], int]:
        """The step's record, and how many problems it took from the stream."""
        record = StepRecord(step)
        with record.phase("sample"):
            rollouts = sampler.draw(step, stream)
            if isinstance(self.engine, SleepingEngine):
                self.engine.rest()
        if self.writer is not None:
            self.writer.append(step, rollouts, weights_digest(self.policy.tensors()))
        batch = collate(rollouts.chosen, str(self.policy.module.device), rollouts.greedy_rewards())
        record.note_samples(rollouts, batch)
        if self.objective.source == "policy" and self.replay is None:
            record.note(weights_version=self.engine.version)
        with record.phase("score"):
            credited = learner.credited(step, batch, record)
        with record.phase("update"):
            learner.update(step, credited, trained_rows(rollouts.chosen, self.config.overlong), record)
            learner.steer(step, len(rollouts.chosen), record)
        with record.phase("sync"):
            self.engine.load_weights(self.policy.tensors(), step)
        return record.row(), rollouts.n_problems_drawn

    def _learner(self) -> Learner:
        optimizer = make_optimizer(self.policy.module, self.objective, self.config.optimizer)
        max_tokens = self.config.sampling.over(self.task.sampling).max_tokens
        # Log-probabilities are the trainer's own only where both compute alike; those of a file are taken as they are.
        computes_alike = self.engine.logp_is_exact and self.config.loop.precision == "float32" and self.replay is None
        steering = Steering(self.config.kl, self.config.reference)
        parts = (self.objective, self.policy, self.reference, optimizer, max_tokens)
        largest = largest_gap(self.config, computes_alike=computes_alike)
        return Learner(self.config, *parts, computes_alike or self.replay is not None, largest, steering)

    def _sampler(self) -> Sampler | Replay:
        if self.replay is not None:
            return self.replay
        return Sampler(self.config, self.task, self.objective, self.engine, self.tokenizer)

    # --- around a step

    def _resume(self, checkpoints: Checkpoints, learner: Learner, watch: Watch) -> Position:
        """The newest checkpoint's state; step records after it belong to steps that are done again."""
        newest = checkpoints.newest()
        position = Position(0, 0)
        if newest is not None:
            reference = self.reference.module if self.reference is not None else None
            position = checkpoints.restore(newest, learner.optimizer, self.objective, learner.steering, reference)
        kept = self.store.rewind_steps(position.step)
        self.store.replace_warnings(asdict(alarm) for row in kept for alarm in watch.see(row))
        for tracker in self.trackers:
            tracker.resume(self.store.record, position.step)
        self.engine.load_weights(self.policy.tensors(), position.step)
        return position

    def _record(self, row: dict[str, float], watch: Watch) -> None:
        self.store.append_step(row)
        for alarm in watch.see(row):
            self.store.append_warning(asdict(alarm))
            self.progress.warn(f"step {alarm.step}: {alarm.text}")
        for tracker in self.trackers:
            tracker.log(row)
        self.progress.advance(figures={name: row[name] for name in SHOWN})

    def _is_due(self, step: int) -> bool:
        is_last = step == self.config.loop.steps
        return is_last or step % self.config.checkpoint.every_steps == 0 or self._is_held_out(step)

    def _is_held_out(self, step: int) -> bool:
        every = self.config.held_out.every_steps
        return every > 0 and (step % every == 0 or step == self.config.loop.steps)
