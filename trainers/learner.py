"""The update: old and reference log-probs, shaped rewards, advantages, then one optimiser step per minibatch.

The old log-probs are those of the policy before a step. They come from the engine, from a pass, or from the step's one
update: that starts from the old policy, so its own log-probs without gradient are the old ones, every ratio is exactly
1 with the gradient of the ratio, and no separate pass is needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness.core.errors import EngineError, RunError
from harness.core.protocols import Need, Objective
from harness.core.seeds import derive
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs, Totals
from harness.trainers.batch import microbatch, microbatches, minibatches, select
from harness.trainers.config import OptimizerConfig, TrainConfig
from harness.trainers.engine_mismatch import engine_weights, mismatch_error, weigh_gradient
from harness.trainers.functional import sequence_mean, total
from harness.trainers.kl import AdaptiveKl, with_entropy_bonus, with_kl_in_loss, with_kl_in_reward
from harness.trainers.policy.lora import AdapterReference
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.reward_shaping import with_mara, with_overlong_penalty
from harness.trainers.step_metrics import StepMetrics, ratios_of

NO_GRADIENT_FACTOR = 4
"""A pass without gradient keeps no activations, so its micro-batches may be larger."""

LogpSource = Literal["engine", "recompute", "live"]


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """Everything that the updates of one step share."""

    batch: Batch
    old: PolicyOutputs
    advantages: Advantages
    engine_weights: torch.Tensor | None  # (B, T)

    def rewards_and_advantages(self) -> list[tuple[float, float]]:
        """Return the shaped reward of each completion, and its advantage or the mean of those of its tokens."""
        values, mask = self.advantages.values, self.batch.completion_mask
        by_completion = values if values.dim() == 1 else sequence_mean(values, mask)  # (B,)
        return list(zip(self.batch.rewards.tolist(), by_completion.tolist(), strict=True))


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
        if config.mara.beta > 0:
            batch = with_mara(batch, old, config.mara)
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
        if not metrics.mismatch.mean <= self.largest_mismatch:  # nan is not
            raise mismatch_error(metrics.mismatch, step, self.largest_mismatch)

    def _forward_all(self, forward: Callable[[Batch], PolicyOutputs], batch: Batch) -> PolicyOutputs:
        """Run a pass over the whole batch in micro-batches, and join the outputs in the order of the batch."""
        everything = torch.arange(len(batch.rewards), device=batch.rewards.device)
        pieces = list(microbatches(batch, everything, NO_GRADIENT_FACTOR * self.config.loop.tokens_per_microbatch))
        outputs = [self._without_states(forward(microbatch(batch, rows, batch.totals))) for rows in pieces]
        return join_outputs(outputs, torch.cat(pieces).argsort())

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
        self.optimizer.zero_grad(set_to_none=True)  # sampling has their memory
        if done and not any(done):
            raise no_finite_gradient_error(step)

    def _update(self, step: int, scored: ScoredBatch, rows: torch.Tensor, totals: Totals, metrics: StepMetrics) -> bool:
        """Make one optimiser step on one minibatch; return False if it was skipped."""
        self.optimizer.zero_grad(set_to_none=True)
        pieces = microbatches(scored.batch, rows, self.config.loop.tokens_per_microbatch)
        results = [self._backward(scored, some, totals, metrics) for some in pieces]
        self._check_mismatch(step, metrics)
        norms = self.clip_and_step()
        is_finite = all(map(math.isfinite, norms.values()))
        metrics.add({"updates_skipped": (float(not is_finite), 1.0)})
        if not is_finite:
            if self.config.optimizer.on_non_finite == "skip":
                return False
            raise non_finite_error(norms)
        metrics.add({"updates_without_gradient": (float(not any(norms.values())), 1.0)})
        for result in results:
            metrics.add({"loss": (float(result.loss), 0.0), **result.metrics})
        metrics.add({"loss": (0.0, 1.0), **{name: (norm, 1.0) for name, norm in norms.items()}})
        return True

    def clip_and_step(self) -> dict[str, float]:
        """Clip the gradients, and step if they are finite; return their norms before clipping."""
        norms = clip_gradients(self.optimizer, self.config.optimizer.grad_clip)
        if all(map(math.isfinite, norms.values())):
            # Also with a gradient of zero, as in verl and TRL: the moments decay, and still move the weights.
            self.optimizer.step()
        return norms

    def _backward(self, scored: ScoredBatch, rows: torch.Tensor, totals: Totals, metrics: StepMetrics) -> LossResult:
        """Add the gradient of one micro-batch."""
        result = self.loss_of(scored, rows, totals, metrics)
        result.loss.backward()  # type: ignore[no-untyped-call]
        return dataclasses.replace(result, loss=result.loss.detach())

    def loss_of(self, scored: ScoredBatch, rows: torch.Tensor, totals: Totals, metrics: StepMetrics) -> LossResult:
        """Return the loss of one micro-batch, with the terms that the loop adds to the objective's."""
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
        return result

    def _current_needs(self) -> frozenset[Need]:
        bonus: set[Need] = {"entropy"} if self.config.loop.entropy_bonus != 0 else set()
        return (self.objective.needs - {"reference_logp"}) | bonus

    # --- after the updates

    def adapt(self, step: int, n_completions: int, metrics: StepMetrics) -> None:
        """Adapt the KL coefficient to the step's KL, and reset the reference if a reset is due."""
        if self.kl.config.target is not None:
            metrics.set(kl_coefficient=self.kl.config.coefficient)
            self.kl.adapt(metrics.get("kl_to_reference"), n_completions)
        if self.reference is None or not self.resets.is_used or not self.resets.update(step, metrics.get("reward")):
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
        if state["optimizer"] is not None:  # a backend may keep it in files of its own
            self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.kl.load_state_dict(state["kl"])
        self.resets.load_state_dict(state["reference_resets"])

    def changed_reference(self) -> Any:
        """Return the module of a reference that is no longer the base model, or None."""
        return self.reference.module if self.reference is not None and self.resets.n_resets > 0 else None


def join_outputs(outputs: Sequence[PolicyOutputs], order: torch.Tensor) -> PolicyOutputs:
    """Return the outputs of micro-batches as one, with the rows in this order."""
    joined = {
        field.name: torch.cat([getattr(output, field.name) for output in outputs])[order]
        for field in dataclasses.fields(PolicyOutputs)
        if getattr(outputs[0], field.name) is not None
    }
    return PolicyOutputs(**joined)


def non_finite_error(norms: Mapping[str, float]) -> RunError:
    return RunError(
        f"the gradient is not finite: {norms}. The newest checkpoint is from before it: look at the steps before in "
        "steps.jsonl, and run the same command again with --set optimizer.on_non_finite=skip to leave such updates "
        "out, or begin another run with a lower learning rate (model.path may be this run's folder)"
    )


def no_finite_gradient_error(step: int) -> RunError:
    return RunError(
        f"step {step}: no gradient was finite. The newest checkpoint is from before it: look at the steps before in "
        "steps.jsonl, and begin another run with a lower learning rate (model.path may be this run's folder)"
    )


# --- old log-probs -----------------------------------------------------------------------------------------------


def old_logprob_source(config: TrainConfig, objective: Objective, batch: Batch, *, engine_is_exact: bool) -> LogpSource:
    """Return the source that `loop.logp_old` asks for; `auto` is the cheapest one that is exact."""
    asked, is_known = config.loop.logp_old, batch.logp_behaviour is not None
    if asked == "engine" and not is_known:
        raise EngineError("the engine gives no log-probabilities: set loop.logp_old = 'recompute'")
    if asked != "auto":
        return asked
    if engine_is_exact and is_known:
        return "engine"
    return "live" if why_not_live(config, objective) is None else "recompute"


def why_not_live(config: TrainConfig, objective: Objective) -> str | None:
    """Return what reads the old log-probs before the update that would give them; None if nothing does."""
    if config.loop.minibatches_per_step * config.loop.epochs > 1:
        return "a step has several updates, of which all but the first begin with another policy"
    if {"logp_old", "completion_hidden"} & objective.needs:
        return "the objective makes its credit of a pass before it"
    if "reference_logp" in objective.needs or config.kl.place != "off" or config.mara.beta > 0:
        return "the KL to the reference is measured before it"
    if config.engine_correction.level != "off":
        return "engine_correction weighs with them"
    return None


def pending_old_logprobs(batch: Batch) -> PolicyOutputs:
    """Return a placeholder for old log-probs that the update will give.

    It is a meta tensor: it has a shape and no numbers, so code that reads it too early fails.
    """
    return PolicyOutputs(logp=torch.empty(batch.completion_mask.shape, device="meta"))


def resolve_old_logprobs(old: PolicyOutputs, current: PolicyOutputs) -> PolicyOutputs:
    """Replace a placeholder by the log-probs of the update itself, without gradient."""
    return PolicyOutputs(logp=current.logp.detach()) if old.logp.is_meta else old


# --- the optimiser -----------------------------------------------------------------------------------------------


def make_optimizer(module: Any, objective: Objective, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW. Weight decay applies to matrices, and to vectors where `decay_vectors` is set."""
    trained = [p for p in module.parameters() if p.requires_grad]
    on_vectors = config.weight_decay if config.decay_vectors else 0.0
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay, "lr": config.lr},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": on_vectors, "lr": config.lr},
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    groups = [group for group in (*groups, *objective_groups(objective, config)) if group["params"]]
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)


def objective_groups(objective: Objective, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the optimiser's groups of the objective's own parameters."""
    groups: list[dict[str, Any]] = [
        {
            "params": list(group.parameters),
            "weight_decay": group.weight_decay if group.weight_decay is not None else config.weight_decay,
            "lr": group.lr if group.lr is not None else config.lr,
            "own_clip": group.own_clip,
        }
        for group in objective.parameters()
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    return groups


def set_learning_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int) -> float:
    """Set the learning rates of a step, counted from 1; return that of the policy."""
    factor = schedule(config, step)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return config.lr * factor


def schedule(config: OptimizerConfig, step: int) -> float:
    """Return the factor on all rates: linear warm-up, then constant or a decay that ends at `decay_steps`."""
    if step <= config.warmup_steps:
        return (step - 1) / config.warmup_steps if config.warmup_from_zero else step / (config.warmup_steps + 1)
    if config.schedule == "constant" or config.decay_steps is None:
        return 1.0
    span = max(1, config.decay_steps - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / span)
    left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * left


def clip_gradients(optimizer: Any, max_norm: float) -> dict[str, float]:
    """Clip the gradients and return their norms before clipping. A `max_norm` of 0 is off.

    The policy's is `grad_norm`, with that of parameters of the objective which are clipped with it; that of the others,
    which are clipped by themselves, is `grad_norm_own`. Of `optimizer` only the `param_groups` are read.
    """
    norms = {}
    for name, is_own in (("grad_norm", False), ("grad_norm_own", True)):
        groups = [group for group in optimizer.param_groups if group.get("own_clip", False) == is_own]
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        if is_own and not parameters:
            continue
        # The gradients of a sharded model are DTensors, which no function takes together with plain ones.
        kinds = [some for is_it in (True, False) if (some := [p for p in parameters if _is_sharded(p.grad) == is_it])]
        each = [torch.nn.utils.get_total_norm([p.grad for p in some]) for some in kinds]
        whole = [getattr(norm, "full_tensor", lambda norm=norm: norm)() for norm in each]
        norm = whole[0] if len(whole) == 1 else torch.nn.utils.get_total_norm(whole)
        for some in kinds if max_norm > 0 else ():
            torch.nn.utils.clip_grads_with_norm_(some, max_norm, norm)
        norms[name] = float(norm)
    return norms


def _is_sharded(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")
