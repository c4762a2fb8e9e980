"""The update: old and reference log-probs, shaped rewards, advantages, then one optimiser step per minibatch."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.core.errors import RunError
from harness.core.protocols import Need, Objective
from harness.core.seeds import derive
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs, Totals
from harness.trainers.batch import microbatch, microbatches, minibatches, select
from harness.trainers.config import TrainConfig
from harness.trainers.engine_mismatch import check_mismatch, engine_weights, weigh_gradient
from harness.trainers.functional import sequence_mean, total
from harness.trainers.kl import AdaptiveKl, with_entropy_bonus, with_kl_in_loss, with_kl_in_reward
from harness.trainers.old_logprobs import old_logprob_source, pending_old_logprobs, resolve_old_logprobs
from harness.trainers.optimizer import clip_gradients, set_learning_rates
from harness.trainers.policy.lora import AdapterReference
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.reward_shaping import with_overlong_penalty
from harness.trainers.step_metrics import StepMetrics, ratios_of

NO_GRADIENT_FACTOR = 4
"""A pass without gradient keeps no activations, so its micro-batches may be larger."""


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """Everything that the updates of one step share."""

    batch: Batch
    old: PolicyOutputs
    advantages: Advantages
    engine_weights: torch.Tensor | None  # (B, T)


@dataclass(frozen=True, slots=True, kw_only=True)
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
    largest_mismatch: float
    """The largest mean distance of the engine's log-probs from the policy's; above it a step is refused."""
    kl: AdaptiveKl
    resets: ReferenceReset

    # --- before the updates

    def score(self, step: int, batch: Batch, metrics: StepMetrics) -> ScoredBatch:
        """Compute old and reference log-probs, shaped rewards and the objective's advantages."""
        config = self.config
        old = self._old_outputs(step, batch, metrics)
        if old.logp_reference is not None:
            drift = sequence_mean(old.logp - old.logp_reference, batch.completion_mask)
            metrics.set(kl_to_reference=float(drift.mean()))
        if config.overlong.buffer_tokens > 0:
            batch = with_overlong_penalty(batch, config.overlong, self.max_tokens)
        if config.kl.place == "reward":
            batch = with_kl_in_reward(batch, old, self.kl.config)
        weights = None
        if config.engine_correction.level != "off":
            weights = engine_weights(batch, old.logp, config.engine_correction)
            at_cap = weights >= config.engine_correction.cap
            metrics.add({"engine_weight": total(weights, batch.completion_mask)})
            metrics.add({"engine_weight_at_cap": total(at_cap, batch.completion_mask)})
        with torch.random.fork_rng():
            torch.manual_seed(derive(config.seed, "credit", step))
            return ScoredBatch(batch, old, self.objective.advantages(batch, old), weights)

    @torch.no_grad()
    def _old_outputs(self, step: int, batch: Batch, metrics: StepMetrics) -> PolicyOutputs:
        """Return the outputs before the updates: of the policy, and of the reference where it is read."""
        needs = self.objective.needs
        source = old_logprob_source(self.config, self.objective, batch, engine_is_exact=self.engine_logp_is_exact)
        if source == "live":
            return pending_old_logprobs(batch)
        behaviour = batch.logp_behaviour if source == "engine" else None
        if behaviour is None or "completion_hidden" in needs:
            outputs = self._forward_all(lambda part: self.policy.forward(part, needs), batch)
            metrics.mismatch.add(batch, outputs.logp)
            self._check_mismatch(step, metrics)
        else:
            outputs = PolicyOutputs(logp=behaviour)
        if behaviour is not None:
            outputs = dataclasses.replace(outputs, logp=behaviour)
        if (reference := self.reference) is None:
            return outputs
        reference_outputs = self._forward_all(lambda part: reference.forward(part, frozenset()), batch)
        return dataclasses.replace(outputs, logp_reference=reference_outputs.logp)

    def _check_mismatch(self, step: int, metrics: StepMetrics) -> None:
        """Compare engine and policy once a step, before its first update changes the policy."""
        metrics.mismatch.close()
        check_mismatch(metrics.mismatch, step, self.largest_mismatch)

    def _forward_all(self, forward: Callable[[Batch], PolicyOutputs], batch: Batch) -> PolicyOutputs:
        """Run a pass over the whole batch in micro-batches, and join the outputs in the order of the batch."""
        everything = torch.arange(len(batch.rewards), device=batch.rewards.device)
        pieces = list(microbatches(batch, everything, NO_GRADIENT_FACTOR * self.config.loop.tokens_per_microbatch))
        outputs = [self._without_states(forward(microbatch(batch, rows, batch.totals))) for rows in pieces]
        order = torch.cat(pieces).argsort()
        joined = {
            field.name: torch.cat([getattr(output, field.name) for output in outputs])[order]
            for field in dataclasses.fields(PolicyOutputs)
            if getattr(outputs[0], field.name) is not None
        }
        return PolicyOutputs(**joined)

    def _without_states(self, outputs: PolicyOutputs) -> PolicyOutputs:
        """Let a critic read the hidden states and drop them: those of a whole step would be its largest tensor."""
        values = self.objective.values(outputs) if outputs.completion_hidden is not None else None
        return outputs if values is None else dataclasses.replace(outputs, values=values, completion_hidden=None)

    # --- the updates

    def update(self, step: int, scored: ScoredBatch, trained: torch.Tensor | None, metrics: StepMetrics) -> None:
        """Run every epoch and minibatch of a step over its `trained` completions; None is all of them. (B,) bool"""
        loop = self.config.loop
        with torch.random.fork_rng():
            torch.manual_seed(derive(self.config.seed, "update", step))
            metrics.set(lr=set_learning_rates(self.optimizer, self.config.optimizer, step))
            done = [
                self._update(step, scored, rows, totals, metrics)
                for _ in range(loop.epochs)
                for rows, totals in minibatches(scored.batch, loop.minibatches_per_step, trained)
            ]
        if done and not any(done):
            raise RunError(
                f"step {step}: no gradient was finite. The newest checkpoint is from before it: look at the steps "
                "before in steps.jsonl, and begin another run with a lower learning rate (model.path may be this "
                "run's folder)"
            )

    def _update(self, step: int, scored: ScoredBatch, rows: torch.Tensor, totals: Totals, metrics: StepMetrics) -> bool:
        """Make one optimiser step on one minibatch; return False if it was skipped."""
        self.optimizer.zero_grad(set_to_none=True)
        pieces = microbatches(scored.batch, rows, self.config.loop.tokens_per_microbatch)
        results = [self._backward(scored, some, totals, metrics) for some in pieces]
        self._check_mismatch(step, metrics)
        norm = clip_gradients(self.optimizer, self.config.optimizer.grad_clip)
        metrics.add({"updates_skipped": (float(not math.isfinite(norm)), 1.0)})
        if not math.isfinite(norm):
            if self.config.optimizer.on_non_finite == "skip":
                return False
            raise RunError(
                f"the gradient is not finite ({norm}). The newest checkpoint is from before it: look at the steps "
                "before in steps.jsonl, and run the same command again with --set optimizer.on_non_finite=skip to "
                "leave such updates out, or begin another run with a lower learning rate (model.path may be this "
                "run's folder)"
            )
        # Also with a gradient of zero, as in verl and TRL: the moments decay, and still move the weights.
        self.optimizer.step()
        metrics.add({"updates_without_gradient": (float(norm == 0), 1.0)})
        for result in results:
            metrics.add({"loss": (float(result.loss), 0.0), **result.metrics})
        metrics.add({"loss": (0.0, 1.0), "grad_norm": (norm, 1.0)})
        return True

    def _backward(self, scored: ScoredBatch, rows: torch.Tensor, totals: Totals, metrics: StepMetrics) -> LossResult:
        """Add the gradient of one micro-batch."""
        config = self.config
        part = microbatch(scored.batch, rows, totals)
        current = self.policy.forward(part, self._current_needs())
        metrics.mismatch.add(part, current.logp)
        old = resolve_old_logprobs(select(scored.old, rows), current)
        weighed = current
        if scored.engine_weights is not None:  # docs/decisions/008-engine-correction.md
            logp = weigh_gradient(current.logp, scored.engine_weights[rows])
            weighed = dataclasses.replace(current, logp=logp, logp_unweighed=current.logp)
        result = self.objective.loss(part, weighed, old, select(scored.advantages, rows))
        metrics.add_ratios(ratios_of(part, current, old, result))
        if config.kl.place == "loss":
            result = with_kl_in_loss(result, part, current, old, self.kl.config)
        if config.loop.entropy_bonus != 0:
            result = with_entropy_bonus(result, part, current, config.loop.entropy_bonus)
        result.loss.backward()  # type: ignore[no-untyped-call]
        return dataclasses.replace(result, loss=result.loss.detach())

    def _current_needs(self) -> frozenset[Need]:
        bonus: set[Need] = {"entropy"} if self.config.loop.entropy_bonus != 0 else set()
        return (self.objective.needs - {"reference_logp"}) | bonus

    # --- after the updates

    def adapt(self, step: int, n_completions: int, metrics: StepMetrics) -> None:
        """Adapt the KL coefficient to the step's KL, and reset the reference if a reset is due."""
        if self.kl.config.target is not None:
            metrics.set(kl_coefficient=self.kl.config.coefficient)
            self.kl.adapt(metrics.get("kl_to_reference"), n_completions)
        if self.reference is None or not self.resets.update(step, metrics.get("reward")):
            return
        metrics.set(reference_reset=1.0)
        self.reference.module.load_state_dict(self.policy.module.state_dict())
        if self.config.reference.reset_optimizer:
            self.optimizer.state.clear()

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "objective": dict(self.objective.state_dict()),
            "kl": dict(self.kl.state_dict()),
            "reference_resets": dict(self.resets.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.kl.load_state_dict(state["kl"])
        self.resets.load_state_dict(state["reference_resets"])

    def changed_reference(self) -> Any:
        """Return the module of a reference that is no longer the base model, or None."""
        return self.reference.module if self.reference is not None and self.resets.n_resets > 0 else None


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn an allocator's error into one that names the settings to lower. They may change on resuming."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            "out of memory. Lower loop.tokens_per_microbatch (training) or engine.batch_rows (sampling), or set "
            "loop.gradient_checkpointing = true, and run the same command again: it goes on from the newest "
            "checkpoint. --dry-run estimates what a step takes"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Recognise the type that a GPU raises, and the words of torch's RuntimeError on a processor."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
