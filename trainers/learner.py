"""What a step does to the weights: the frozen pass, the credit, and one optimiser step a minibatch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.core.errors import RunError
from harness.core.protocols import Critic, Need, Objective
from harness.core.seeds import derive
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs, Totals
from harness.trainers.batch import microbatch, microbatches, minibatches, select
from harness.trainers.config import TrainConfig
from harness.trainers.functional import sequence_mean, total
from harness.trainers.kl import engine_weights, weigh_gradient, with_terms
from harness.trainers.old_logprobs import not_yet, now, source_of_logp_old
from harness.trainers.optimizer import clip_gradients, set_learning_rates
from harness.trainers.policy.lora import AdapterReference
from harness.trainers.policy.model import Policy
from harness.trainers.reward_shaping import shaped
from harness.trainers.steering import Steering
from harness.trainers.step_metrics import StepRecord

FROZEN_FACTOR = 4
"""A pass without gradient keeps no activations, so its micro-batches may be larger."""


@dataclass(frozen=True, slots=True)
class Credited:
    """What the updates of one step share: the batch, what was before them, and what was earned."""

    batch: Batch
    old: PolicyOutputs
    advantages: Advantages
    engine_weights: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Learner:
    """The policy, its reference and its optimiser, and the objective that moves them."""

    config: TrainConfig
    objective: Objective
    policy: Policy
    reference: Policy | AdapterReference | None
    optimizer: torch.optim.Optimizer
    max_tokens: int
    """The longest completion that is sampled."""
    engine_logp_is_exact: bool
    largest_gap: float
    """The mean distance of the engine's log-probabilities from the policy's above which a step is refused."""
    steering: Steering

    # --- before the updates

    def credited(self, step: int, batch: Batch, record: StepRecord) -> Credited:
        """The frozen pass, the shaped rewards and the objective's credit. Its randomness is the step's own."""
        config = self.config
        old = self._frozen(batch, record)
        if old.logp_reference is not None:
            drift = sequence_mean(old.logp - old.logp_reference, batch.completion_mask)
            record.note(kl_to_reference=float(drift.mean()))
        batch = shaped(batch, old, config.overlong, self.steering.kl, self.max_tokens)
        weights = engine_weights(batch, old, config.engine_correction)
        if weights is not None:
            at_cap = weights >= config.engine_correction.cap
            record.add({"engine_weight": total(weights, batch.completion_mask)})
            record.add({"engine_weight_at_cap": total(at_cap, batch.completion_mask)})
        with torch.random.fork_rng():
            torch.manual_seed(derive(config.seed, "credit", step))
            return Credited(batch, old, self.objective.advantages(batch, old), weights)

    @torch.no_grad()
    def _frozen(self, batch: Batch, record: StepRecord) -> PolicyOutputs:
        """Once a batch, before its updates: what the policy was, and the reference where it is needed."""
        needs = self.objective.needs
        source = source_of_logp_old(self.config, self.objective, batch, engine_is_exact=self.engine_logp_is_exact)
        if source == "live":
            return not_yet(batch)
        behaviour = batch.logp_behaviour if source == "engine" else None
        if behaviour is None or "completion_hidden" in needs:
            outputs = self._forward_all(lambda part: self._compared(part, needs, record), batch)
            record.gap.close(self.largest_gap)
        else:
            outputs = PolicyOutputs(logp=behaviour)
        if behaviour is not None:
            outputs = dataclasses.replace(outputs, logp=behaviour)
        if (reads := self.reference) is None:
            return outputs
        reference = self._forward_all(lambda part: reads.forward(part, frozenset()), batch)
        return dataclasses.replace(outputs, logp_reference=reference.logp)

    def _compared(self, part: Batch, needs: frozenset[Need], record: StepRecord) -> PolicyOutputs:
        """A pass of the policy, compared with the engine's log-probabilities."""
        outputs = self.policy.forward(part, needs)
        record.gap.add(part, outputs)
        return outputs

    def _forward_all(self, forward: Callable[[Batch], PolicyOutputs], batch: Batch) -> PolicyOutputs:
        """A pass over the whole batch in micro-batches, put together again in its order."""
        everything = torch.arange(len(batch.rewards), device=batch.rewards.device)
        pieces = list(microbatches(batch, everything, FROZEN_FACTOR * self.config.loop.tokens_per_microbatch))
        outputs = [self._without_states(forward(microbatch(batch, rows, batch.totals))) for rows in pieces]
        order = torch.cat(pieces).argsort()
        joined = {
            field.name: torch.cat([getattr(output, field.name) for output in outputs])[order]
            for field in dataclasses.fields(PolicyOutputs)
            if getattr(outputs[0], field.name) is not None
        }
        return PolicyOutputs(**joined)

    def _without_states(self, outputs: PolicyOutputs) -> PolicyOutputs:
        """The states of all completions of a step would be its largest tensor by far: a critic reads them here."""
        if outputs.completion_hidden is None or not isinstance(self.objective, Critic):
            return outputs
        return dataclasses.replace(outputs, values=self.objective.values(outputs), completion_hidden=None)

    # --- the updates

    def update(self, step: int, credited: Credited, trained: torch.Tensor, record: StepRecord) -> None:
        """Every epoch and minibatch of a step, over its `trained` completions. (B,) bool"""
        loop, rows_trained = self.config.loop, trained.to(credited.batch.rewards.device)
        with torch.random.fork_rng():
            torch.manual_seed(derive(self.config.seed, "update", step))
            record.note(lr=set_learning_rates(self.optimizer, self.config.optimizer, step))
            done = [
                self._update(credited, rows, totals, record)
                for _ in range(loop.epochs)
                for rows, totals in minibatches(credited.batch, loop.minibatches_per_step, rows_trained)
            ]
        if done and not any(done):
            raise RunError(
                f"step {step}: no gradient was finite. The newest checkpoint is from before it: look at the steps "
                "before in steps.jsonl, and begin another run with a lower learning rate (model.path may be this "
                "run's folder)"
            )

    def _update(self, credited: Credited, rows: torch.Tensor, totals: Totals, record: StepRecord) -> bool:
        """One optimiser step on one minibatch; False if it was skipped."""
        self.optimizer.zero_grad(set_to_none=True)
        pieces = microbatches(credited.batch, rows, self.config.loop.tokens_per_microbatch)
        results = [self._backward(credited, some, totals, record) for some in pieces]
        record.gap.close(self.largest_gap)
        norm = clip_gradients(self.optimizer, self.config.optimizer.grad_clip)
        record.add({"updates_skipped": (float(not math.isfinite(norm)), 1.0)})
        if not math.isfinite(norm):
            if self.config.optimizer.on_non_finite == "skip":
                return False
            raise RunError(
                f"the gradient is not finite ({norm}). The newest checkpoint is from before it: look at the steps "
                "before in steps.jsonl, and run the same command again with --set optimizer.on_non_finite=skip to "
                "leave such updates out, or begin another run with a lower learning rate (model.path may be this "
                "run's folder)"
            )
        # Without a gradient too, as in verl and TRL: moments fade, and what is left of them still moves the weights.
        self.optimizer.step()
        record.add({"updates_without_gradient": (float(norm == 0), 1.0)})
        for result in results:
            record.add({"loss": (float(result.loss), 0.0), **result.metrics})
        record.add({"loss": (0.0, 1.0), "grad_norm": (norm, 1.0)})
        return True

    def _backward(self, credited: Credited, rows: torch.Tensor, totals: Totals, record: StepRecord) -> LossResult:
        """The gradient of one micro-batch, added to what is there."""
        config = self.config
        part = microbatch(credited.batch, rows, totals)
        current = self._compared(part, self._live_needs(), record)
        old = now(select(credited.old, rows), current)
        weighed = current
        if credited.engine_weights is not None:
            logp = weigh_gradient(current.logp, credited.engine_weights[rows])
            weighed = dataclasses.replace(current, logp=logp, logp_unweighed=current.logp)
        result = self.objective.loss(part, weighed, old, select(credited.advantages, rows))
        record.compare(part, current, old, result)
        result = with_terms(result, part, current, old, self.steering.kl, config.loop.entropy_bonus)
        result.loss.backward()  # type: ignore[no-untyped-call]
        return dataclasses.replace(result, loss=result.loss.detach())

    def _live_needs(self) -> frozenset[Need]:
        bonus: set[Need] = {"entropy"} if self.config.loop.entropy_bonus != 0 else set()
        return (self.objective.needs - {"reference_logp"}) | bonus

    # --- after the updates

    def steer(self, step: int, n_completions: int, record: StepRecord) -> None:
        """What the figures of this step change for the next: the KL's coefficient, and the reference."""
        if self.steering.kl.target is not None:
            record.note(kl_coefficient=self.steering.kl.coefficient)
            self.steering.adapt(record.noted("kl_to_reference"), n_completions)
        if self.reference is None or not self.steering.resets(step, record.noted("reward")):
            return
        record.note(reference_reset=1.0)
        self.reference.module.load_state_dict(self.policy.module.state_dict())
        if self.config.reference.reset_optimizer:
            self.optimizer.state.clear()

    def changed_reference(self) -> Any:
        """The reference's module, if it is not the base model any more."""
        return self.reference.module if self.reference is not None and self.steering.n_resets > 0 else None
