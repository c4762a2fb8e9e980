"""The steps of a run, cut into the updates that TRL's trainer asks for one by one.

The same order as in `harness.trainers.loop`: sample, grade, score, advantages, updates, record, checkpoint, held-out
evaluation. Here the trainer calls: `update` computes the gradient of one update, and `end_update` comes after its
optimiser step.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.core.progress import Progress
from harness.core.protocols import Engine
from harness.trainers.backends.trl.learner import SharedLearner, Update
from harness.trainers.backends.trl.policy import WrappedPolicy
from harness.trainers.backends.trl.world import World
from harness.trainers.batch import collate
from harness.trainers.checkpoint import Checkpoints, Position, explaining_damage
from harness.trainers.learner import ScoredBatch, no_finite_gradient_error
from harness.trainers.loop import should_checkpoint, should_evaluate
from harness.trainers.reward_shaping import untruncated_rows
from harness.trainers.rollouts import Rollouts, RolloutSource
from harness.trainers.saved_rollouts import RolloutWriter, weights_digest
from harness.trainers.setup import TrainSetup
from harness.trainers.step_metrics import StepMetrics, StepRecorder


@dataclass(slots=True)
class Step:
    """One step while it lasts."""

    number: int
    metrics: StepMetrics
    rollouts: Rollouts
    scored: ScoredBatch
    updates: deque[Update]
    timer: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Runs from the begin of an update to its end."""
    n_begun: int = 0
    n_made: int = 0


@dataclass(slots=True, kw_only=True)
class Steps:
    """A run that is ready to start, as one process sees it. Only the first one has what writes the run folder."""

    setup: TrainSetup
    world: World
    policy: WrappedPolicy
    tokenizer: Any
    source: RolloutSource
    engine: Engine | None
    samples: bool
    """Whether the engine samples the rollouts, and not only the held-out evaluations."""
    folder: Path
    recorder: StepRecorder | None
    progress: Progress
    evaluate_held_out: Callable[[], None]
    reference: Any = None
    """The module of the reference, as the checkpoint restores it."""
    writer: RolloutWriter | None = None
    learner: SharedLearner | None = None
    position: Position = Position(0, 0)  # noqa: RUF009  # frozen
    step: Step | None = None

    @property
    def is_done(self) -> bool:
        return self.position.step == self.setup.config.loop.steps

    def begin(self, learner: SharedLearner | None) -> None:
        """Continue after the newest checkpoint. Without a learner no step is left, but perhaps an evaluation."""
        config, newest = self.setup.config, self.setup.newest
        self.learner = learner
        if newest is not None:
            self.position, state = self._checkpoints().restore(newest, self.reference)
            if learner is not None:
                with explaining_damage(newest):
                    learner.load_state_dict(state)
                self.policy.restore_engine(newest)
        if self.recorder is not None:
            self.recorder.resume(self.position.step)
        if self.samples:
            self._sync()
        if self.position.step > 0 and should_evaluate(config, self.position.step):
            self._evaluate()  # a kill may have come between that checkpoint and its evaluation
        self.source.start(self.position.n_problems_drawn)
        self.progress.begin("train", config.loop.steps, self.position.step)

    # --- what the trainer calls

    def update(self) -> torch.Tensor:
        """Compute the gradient of the next update. Return its loss, which is 0 where no update is left."""
        assert self.learner is not None
        while self.step is None or not self.step.updates:
            if self.is_done:
                return torch.zeros((), device=self.policy.shape.device)
            self.step = self._begin_step(self.position.step + 1)
            if not self.step.updates:
                self._end_step(self.step)
        step = self.step
        step.timer.enter_context(step.metrics.phase("update"))
        loss, is_made = self.learner.accumulate(step.number, step.scored, step.updates.popleft(), step.metrics)
        step.n_begun, step.n_made = step.n_begun + 1, step.n_made + is_made
        return loss

    def end_update(self) -> None:
        """Finish the step after its last update."""
        if self.step is None or self.is_done:
            return
        self.step.timer.close()
        if not self.step.updates:
            if self.step.n_begun > 0 and self.step.n_made == 0:
                raise no_finite_gradient_error(self.step.number)
            self._end_step(self.step)

    # --- one step

    def _begin_step(self, number: int) -> Step:
        learner, metrics = self.learner, StepMetrics(number)
        assert learner is not None
        with metrics.phase("sample"):
            rollouts = self.source.draw(number)
            if self.samples and self.engine is not None:
                self.engine.sleep()
        if self.setup.config.rollouts.save:
            digest = weights_digest(self.policy.tensors())  # of all processes' weights
            if self.writer is not None:
                self.writer.append(number, rollouts, digest)
        needs = self.setup.objective.needs
        batch = collate(rollouts.chosen, self.policy.shape.device, rollouts.greedy_rewards(), needs)
        metrics.add_rollouts(rollouts, batch)
        with metrics.phase("score"):
            scored = learner.score(number, batch, metrics)
        if batch.logp_behaviour is None and not scored.old.logp.is_meta:
            metrics.set(entropy=-float(scored.old.logp.sum()) / batch.totals.n_tokens)
        if self.recorder is not None:
            self.recorder.keep_groups(number, rollouts, scored.rewards_and_advantages)
        is_masked = self.setup.config.overlong.mask_truncated
        trained = untruncated_rows(rollouts.chosen) if is_masked else None
        return Step(number, metrics, rollouts, scored, deque(learner.begin(number, scored, trained, metrics)))

    def _end_step(self, step: Step) -> None:
        learner, config, number = self.learner, self.setup.config, step.number
        assert learner is not None
        self.step = None
        learner.adapt(number, len(step.rollouts.chosen), step.metrics)
        with step.metrics.phase("sync"):
            if self.samples:
                self._sync(number)
        own, *others = self.world.gather(step.metrics.to_cpu())
        self.position = Position(number, self.position.n_problems_drawn + step.rollouts.n_problems_drawn)
        if self.recorder is not None:
            own.merge(others)
            self.recorder.record(own.row())
        if should_checkpoint(config, number):
            self._save(learner)
        if should_evaluate(config, number):
            self._evaluate()
            self.progress.begin("train", config.loop.steps, number)
        if self.is_done:
            self.progress.end()

    def _sync(self, version: int | None = None) -> None:
        """Give the engine the weights. Every process must take part where they are sharded."""
        if self.engine is not None:
            self.engine.load_weights(self.policy.tensors(), self.position.step if version is None else version)
        elif self.policy.is_sharded:
            for _ in self.policy.tensors():
                pass

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder, self.setup.config.checkpoint.keep)

    def _save(self, learner: SharedLearner) -> None:
        """Save a checkpoint: the first process writes it, and all take part where weights are sharded."""
        state, checkpoints = learner.state_dict(), self._checkpoints()
        if self.recorder is None:
            self.policy.save_pretrained(checkpoints.temporary(self.position))
        else:
            self.recorder.store.sync()  # a checkpoint is never ahead of its step records
            checkpoints.save(self.position, state, self.policy, self.tokenizer, learner.changed_reference())
        self.world.wait()

    def _evaluate(self) -> None:
        """Evaluate in the first process, for which the others wait."""
        if not self.samples:
            self._sync()
        self.evaluate_held_out()
        self.world.wait()
