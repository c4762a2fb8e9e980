"""The learner of several processes: each computes its share of a step's completions, and all make the same update.

Every process has the whole batch of a step, which is small: token ids, lengths, rewards. So all of them compute the
same advantages over whole groups, and the same division of the work, without asking each other. Only the log-probs that
a pass gave for some of the rows are exchanged, and gradients.

A loss is divided by the totals of the whole minibatch. The sum over the micro-batches of all processes is then the loss
of the minibatch, and the average that DDP, FSDP2 and DeepSpeed take is multiplied by the number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from harness.core.protocols import Objective
from harness.core.seeds import derive
from harness.core.tensors import Batch, LossResult, ParameterGroup, PolicyOutputs, Totals
from harness.trainers.backends.trl.policy import WrappedPolicy, whole
from harness.trainers.backends.trl.world import World
from harness.trainers.batch import microbatch, microbatches, minibatches
from harness.trainers.config import OptimizerConfig
from harness.trainers.learner import (
    NO_GRADIENT_FACTOR,
    Learner,
    ScoredBatch,
    clip_gradients,
    make_optimizer,
    non_finite_error,
    set_learning_rates,
)
from harness.trainers.step_metrics import StepMetrics

Update = tuple[Tensor, Totals]
"""The rows of a minibatch and its totals."""


@dataclass(frozen=True, slots=True)
class Share:
    """One micro-batch of one process. A filler takes part in the exchange and adds nothing."""

    rows: Tensor
    is_filler: bool = False


def shares(batch: Batch, rows: Tensor, max_tokens: int, n_processes: int) -> list[list[Share]]:
    """Divide rows among processes, as many micro-batches for each: an exchange needs them all.

    With one process the micro-batches are those of `microbatches`.
    """
    dealt = [_dealt(batch, rows, rank, n_processes) for rank in range(n_processes)]
    each = [[Share(some) for some in microbatches(batch, mine, max_tokens)] for mine in dealt]
    most = max(map(len, each))
    return [[*mine, *[Share(dealt[0][:1], is_filler=True)] * (most - len(mine))] for mine in each]


def equal_shares(batch: Batch, rows: Tensor, n_shares: int, world: World) -> list[Share]:
    """Divide this process's rows into so many micro-batches, as a trainer that counts them asks for."""
    pieces = _dealt(batch, rows, world.rank, world.size).tensor_split(n_shares)
    filler = Share(torch.zeros(1, dtype=torch.long, device=rows.device), is_filler=True)
    return [Share(some) if len(some) else filler for some in pieces]


def _dealt(batch: Batch, rows: Tensor, rank: int, n_processes: int) -> Tensor:
    """Return the rows of a process, the longest first: every process gets long and short ones."""
    lengths = (batch.prompt_lengths + batch.completion_lengths)[rows]
    return rows[lengths.argsort(descending=True, stable=True)][rank::n_processes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLearner(Learner):
    """A learner whose optimiser is stepped by TRL's trainer, and whose forward pass accelerate wrapped."""

    world: World
    policy: WrappedPolicy
    accelerator: Any
    own: torch.optim.Optimizer | None
    """The optimiser of the objective's own parameters. They are not in the model, so neither weight sync nor exports
    need a filter, and no wrapper divides them: each process has them, with the same values."""

    # --- before the updates

    def _forward_all(self, forward: Callable[[Batch], PolicyOutputs], batch: Batch) -> PolicyOutputs:
        """Run a pass over this process's share of the batch, and join the outputs of all in the order of the batch."""
        everything = torch.arange(len(batch.rewards), device=batch.rewards.device)
        max_tokens = NO_GRADIENT_FACTOR * self.config.loop.tokens_per_microbatch
        mine = shares(batch, everything, max_tokens, self.world.size)[self.world.rank]
        outputs = [self._without_states(forward(microbatch(batch, share.rows, batch.totals))) for share in mine]
        rows = torch.cat([share.rows for share in mine])
        joined: dict[str, Tensor] = {}
        for name in (field.name for field in fields(PolicyOutputs) if getattr(outputs[0], field.name) is not None):
            part = torch.cat([getattr(output, name) for output in outputs])
            joined[name] = part.new_zeros(len(everything), *part.shape[1:])
            for their_rows, theirs in self.world.gather((rows.cpu(), part.cpu())):
                joined[name][their_rows.to(rows.device)] = theirs.to(part.device)
        return PolicyOutputs(**joined)

    def _check_mismatch(self, step: int, metrics: StepMetrics) -> None:
        """Compare with what all processes measured, so that all or none of them stop."""
        if not metrics.mismatch.is_closed:
            everyone = self.world.gather(metrics.mismatch)
            for other in everyone[: self.world.rank] + everyone[self.world.rank + 1 :]:
                metrics.mismatch.merge(other)
        Learner._check_mismatch(self, step, metrics)

    # --- the updates

    def begin(self, step: int, scored: ScoredBatch, trained: Tensor | None, metrics: StepMetrics) -> list[Update]:
        """Return the updates of a step, and set its learning rates and its randomness."""
        loop = self.config.loop
        seed = derive(self.config.seed, "update", step)
        torch.manual_seed(seed if self.world.is_main else derive(seed, self.world.rank))
        metrics.set(lr=set_learning_rates(self.optimizer, self.config.optimizer, step))
        if self.own is not None:
            set_learning_rates(self.own, self.config.optimizer, step)
        return [
            update
            for _ in range(loop.epochs)
            for update in minibatches(scored.batch, loop.minibatches_per_step, trained)
        ]

    def accumulate(self, step: int, scored: ScoredBatch, update: Update, metrics: StepMetrics) -> tuple[Tensor, bool]:
        """Compute the gradient of a minibatch, clip it, and step the objective's own parameters.

        Return the loss, and whether the update is made: where it is skipped, the optimiser of TRL's trainer finds no
        gradient of the policy.
        """
        rows, totals = update
        mine = shares(scored.batch, rows, self.config.loop.tokens_per_microbatch, self.world.size)[self.world.rank]
        results: list[LossResult] = []
        for i, share in enumerate(mine):
            is_last = i == len(mine) - 1
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.policy.wrapped):
                results += self._backward_share(scored, share, totals, metrics)
        norms = self.finish_update(step, results, metrics)
        loss = sum(float(result.loss) for result in results)
        return torch.tensor(loss, device=rows.device), all(map(math.isfinite, norms.values()))

    def _backward_share(
        self, scored: ScoredBatch, share: Share, totals: Totals, metrics: StepMetrics
    ) -> list[LossResult]:
        loss, results = self.share_loss(scored, share, totals, metrics)
        self.accelerator.backward(loss)
        return results

    def share_loss(
        self, scored: ScoredBatch, share: Share, totals: Totals, metrics: StepMetrics
    ) -> tuple[Tensor, list[LossResult]]:
        """Return the loss of a micro-batch, whose gradients the processes average, and its result without gradient."""
        if share.is_filler:
            outputs = self.policy.forward(microbatch(scored.batch, share.rows, totals), frozenset())
            return 0.0 * outputs.logp.sum(), []
        result = self.loss_of(scored, share.rows, totals, metrics)
        return self.world.size * result.loss, [dataclasses.replace(result, loss=result.loss.detach())]

    def finish_update(self, step: int, results: Sequence[LossResult], metrics: StepMetrics) -> dict[str, float]:
        """Clip the gradient of an update, step the objective's own parameters; return the norms before clipping."""
        self._check_mismatch(step, metrics)
        norms = self._clip_and_step(metrics)
        if all(map(math.isfinite, norms.values())):
            for result in results:
                metrics.add({"loss": (float(result.loss), 0.0), **result.metrics})
            metrics.add({"loss": (0.0, 1 / self.world.size)})
        return norms

    def _clip_and_step(self, metrics: StepMetrics) -> dict[str, float]:
        """Skip the update, leaving no gradient, if it is not finite."""
        groups = [*self._policy_groups(), *(self.own.param_groups if self.own is not None else ())]
        for group in self.own.param_groups if self.own is not None else ():
            for parameter in group["params"]:
                parameter.grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                self.world.average(parameter.grad)
        norms = clip_gradients(SimpleNamespace(param_groups=groups), self.config.optimizer.grad_clip)
        if (engine := self.policy.engine) is not None:
            norms["grad_norm"] = float(engine.get_global_grad_norm())
        is_finite = all(map(math.isfinite, norms.values()))
        metrics.add({"updates_skipped": (float(not is_finite), 1.0)})
        if not is_finite:
            if self.config.optimizer.on_non_finite == "stop":
                raise non_finite_error(norms)
            for parameter in (parameter for group in groups for parameter in group["params"]):
                parameter.grad = None
            return norms
        if self.own is not None:
            self.own.step()
            self.own.zero_grad(set_to_none=True)
        metrics.add({"updates_without_gradient": (float(not any(norms.values())), 1.0)})
        metrics.add({name: (norm, 1.0) for name, norm in norms.items()})
        return norms

    def _policy_groups(self) -> Sequence[Mapping[str, Any]]:
        """Return the optimiser's groups; none with DeepSpeed, which keeps their gradients to itself and clips them."""
        return self.optimizer.param_groups if self.policy.engine is None else ()

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state. Every process must take part where the optimiser's is sharded."""
        policy = whole_state(self.optimizer.state_dict()) if self.policy.engine is None else None
        own = self.own.state_dict() if self.own is not None else None
        return {**Learner.state_dict(self), "optimizer": policy, "own_optimizer": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.own is not None:
            self.own.load_state_dict(state["own_optimizer"])
        optimizer = state["optimizer"]
        sharded = sharded_state(self.optimizer, optimizer) if optimizer is not None else None
        Learner.load_state_dict(self, {**state, "optimizer": sharded})


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimiser's state with whole tensors on the processor in the place of sharded ones."""
    moments = {
        number: {name: whole(value).cpu() for name, value in of.items()} for number, of in state["state"].items()
    }
    return {**state, "state": moments}


def sharded_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole state with each tensor sharded as its parameter is."""
    from torch.distributed.tensor import distribute_tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def like(parameter: Any, value: Any) -> Any:
        if not hasattr(parameter, "full_tensor") or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    moments = {
        number: {name: like(parameters[number], value) for name, value in of.items()}
        for number, of in state["state"].items()
    }
    return {**state, "state": moments}


# --- optimisers ---------------------------------------------------------------------------------------------------


class _Nothing:
    """An objective without parameters of its own."""

    def parameters(self) -> Sequence[ParameterGroup]:
        return ()


def policy_optimizer(module: Any, config: OptimizerConfig) -> torch.optim.Optimizer:
    return make_optimizer(module, _Nothing(), config)  # type: ignore[arg-type]


def own_optimizer(objective: Objective, config: OptimizerConfig) -> torch.optim.Optimizer | None:
    """Return the optimiser of the objective's parameters, with their own rate and clip; None if it has none."""
    has_some = any(group.parameters for group in objective.parameters())
    return make_optimizer(torch.nn.Module(), objective, config) if has_some else None
