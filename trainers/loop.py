"""The training loop: sample, grade, advantages, loss, step, sync, record. The same for every objective.

A `RolloutSource` draws what a step learns from, the `Learner` moves the weights. A step depends on nothing but the
seed of the run, the number of the step and the state in the checkpoint, so a resumed run repeats an unbroken one, to
the bit where the arithmetic does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.core.protocols import Engine
from harness.trainers.batch import collate
from harness.trainers.checkpoint import Checkpoints, Position, explaining_damage
from harness.trainers.config import TrainConfig
from harness.trainers.engine_mismatch import largest_mismatch
from harness.trainers.kl import AdaptiveKl
from harness.trainers.learner import Learner, make_optimizer
from harness.trainers.policy.lora import AdapterReference
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.reward_shaping import untruncated_rows
from harness.trainers.rollouts import RolloutSource
from harness.trainers.saved_rollouts import RolloutWriter, weights_digest
from harness.trainers.setup import TrainSetup
from harness.trainers.step_metrics import StepMetrics, StepRecorder


@dataclass(slots=True, kw_only=True)
class Trainer:
    """A run that is ready to start. `fit` is the loop, and `_step` one step of it."""

    setup: TrainSetup
    policy: Policy
    reference: Policy | AdapterReference | None
    tokenizer: Any
    source: RolloutSource
    engine: Engine | None
    """Follows the policy; None where nothing is sampled."""
    recorder: StepRecorder
    evaluate_held_out: Callable[[], None]
    """Evaluates the policy of the newest checkpoint on held-out problems."""
    writer: RolloutWriter | None = None
    """Saves the rollouts of every step, where they are kept."""
    make_learner: Callable[..., Learner] = Learner
    optimizer: torch.optim.Optimizer | None = None
    """Steps a policy whose weights are not in this process."""

    def fit(self) -> None:
        config = self.setup.config
        learner, store, progress = self._learner(), self.recorder.store, self.recorder.progress
        checkpoints = Checkpoints(store.folder, config.checkpoint.keep)
        position = self._resume(checkpoints, learner)
        if position.step > 0 and should_evaluate(config, position.step):
            self.evaluate_held_out()  # a kill may have come between that checkpoint and its evaluation
        self.source.start(position.n_problems_drawn)
        progress.begin("train", config.loop.steps, position.step)
        first = position.step + 1
        for step in range(first, config.loop.steps + 1):
            # The first step of a process may compile, and there is no rate to print yet.
            with progress.working(f"step {step}") if step == first else contextlib.nullcontext():
                row, n_drawn = self._step(step, learner)
            position = Position(step, position.n_problems_drawn + n_drawn)
            self.recorder.record(row)
            if should_checkpoint(config, step):
                store.sync()  # a checkpoint is never ahead of its step records
                checkpoints.save(
                    position, learner.state_dict(), self.policy, self.tokenizer, learner.changed_reference()
                )
            if should_evaluate(config, step):
                self.evaluate_held_out()
                progress.begin("train", config.loop.steps, step)
        progress.end()

    def _step(self, step: int, learner: Learner) -> tuple[dict[str, float], int]:
        """Make one step; return its metrics and how many problems it drew from the task."""
        metrics, engine = StepMetrics(step), self.engine
        with metrics.phase("sample"):
            rollouts = self.source.draw(step)
            if engine is not None:
                engine.sleep()
        if self.writer is not None:
            self.writer.append(step, rollouts, weights_digest(self.policy.tensors()))
        device, needs = str(self.policy.module.device), self.setup.objective.needs
        batch = collate(rollouts.chosen, device, rollouts.greedy_rewards(), needs)
        metrics.add_rollouts(rollouts, batch)
        with metrics.phase("score"):
            scored = learner.score(step, batch, metrics)
        self.recorder.keep_groups(step, rollouts, scored.rewards_and_advantages)
        with metrics.phase("update"):
            is_masked = self.setup.config.overlong.mask_truncated
            trained = untruncated_rows(rollouts.chosen) if is_masked else None
            learner.update(step, scored, trained, metrics)
            learner.adapt(step, len(rollouts.chosen), metrics)
        with metrics.phase("sync"):
            if engine is not None:
                engine.load_weights(self.policy.tensors(), step)
        return metrics.row(), rollouts.n_problems_drawn

    # --- around a step

    def _learner(self) -> Learner:
        setup, config = self.setup, self.setup.config
        # Log-probs are the trainer's own only where both compute alike; those of a file are taken as they are.
        is_exact = self.engine is not None and self.engine.logp_is_exact
        computes_alike = is_exact and config.loop.precision == "float32" and setup.saved is None
        optimizer = self.optimizer
        if optimizer is None:
            optimizer = make_optimizer(self.policy.module, setup.objective, config.optimizer)
        return self.make_learner(
            config=config,
            objective=setup.objective,
            policy=self.policy,
            reference=self.reference,
            optimizer=optimizer,
            max_tokens=setup.max_tokens,
            engine_logp_is_exact=computes_alike or setup.saved is not None,
            largest_mismatch=largest_mismatch(config, computes_alike=computes_alike),
            kl=AdaptiveKl(config.kl),
            resets=ReferenceReset(config.reference),
        )

    def _resume(self, checkpoints: Checkpoints, learner: Learner) -> Position:
        """Load the newest checkpoint; records and groups after it belong to steps that are done again."""
        position, newest = Position(0, 0), checkpoints.newest()
        if newest is not None:
            reference = self.reference.module if self.reference is not None else None
            position, state = checkpoints.restore(newest, reference)
            with explaining_damage(newest):
                learner.load_state_dict(state)
        self.recorder.resume(position.step)
        if self.engine is not None:
            self.engine.load_weights(self.policy.tensors(), position.step)
        return position


def should_checkpoint(config: TrainConfig, step: int) -> bool:
    is_due = step % config.checkpoint.interval(config.loop.steps) == 0
    return is_due or step == config.loop.steps or should_evaluate(config, step)


def should_evaluate(config: TrainConfig, step: int) -> bool:
    every = config.held_out.every_steps
    return every > 0 and (step % every == 0 or step == config.loop.steps)
