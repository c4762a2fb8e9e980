"""The optimiser: AdamW on the server for the adapters, and AdamW here for the objective's own parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from harness.core.protocols import Objective
from harness.trainers.backends.tinker.policy import TinkerPolicy
from harness.trainers.backends.tinker.reduction import Reduction, factors
from harness.trainers.backends.tinker.requests import datum
from harness.trainers.config import OptimizerConfig
from harness.trainers.learner import Learner, clip_gradients, objective_groups

GRAD_NORM = "skyrl.ai/grad_norm"
"""The key of the gradient's norm in the answer to an optimiser step."""


class TinkerOptimizer(torch.optim.AdamW):
    """Group 0 is the policy's, without parameters here: `push` sends its gradient and steps it on the server."""

    def __init__(
        self, policy: TinkerPolicy, objective: Objective, config: OptimizerConfig, reduction: Reduction
    ) -> None:
        remote = {"params": [], "lr": config.lr, "base_lr": config.lr, "weight_decay": config.weight_decay}
        super().__init__([remote, *objective_groups(objective, config)], betas=config.betas, eps=config.eps, fused=True)
        self._policy, self._config, self._reduction = policy, config, reduction

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self._policy.pending.clear()

    def push(self) -> float:
        """Send the gradient of the pending passes and step the adapters; return the gradient's norm.

        The gradient goes as `importance_sampling` with the log-probs just returned: the ratio is one, so the gradient
        is that of the sum of log-prob x advantage, whatever the sign of the advantages. The norm is that of the
        adapters' gradient where the server gives it, and otherwise that of the gradient of the log-probs.
        """
        pending = self._policy.pending
        sequences = [tokens for one in pending for tokens in one.sequences]
        logprobs = [row for one in pending for row in one.logprobs]
        gradients = [row for one in pending for row in one.gradients()]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            return norm
        scales = factors(self._reduction, [len(row) for row in gradients])
        data = [
            datum(tokens, logprobs=logp.tolist(), advantages=(-scale * grad).tolist())
            for tokens, logp, grad, scale in zip(sequences, logprobs, gradients, scales, strict=True)
        ]
        weights = self._policy.module
        passed = weights.client.forward_backward(data, "importance_sampling")
        stepped = weights.client.optim_step(self._adam_params())  # sent at once: the server works in order
        weights.server.wait(passed, "a gradient")
        metrics = weights.server.wait(stepped, "an optimiser step").metrics
        self._policy.forget()
        return float(metrics[GRAD_NORM]) if metrics and GRAD_NORM in metrics else norm

    def _adam_params(self) -> Any:
        from tinker import types

        config, (beta1, beta2) = self._config, self._config.betas
        return types.AdamParams(
            learning_rate=self.param_groups[0]["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            grad_clip_norm=config.grad_clip,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both: the adapters and their moments are a path on the server."""
        return {"own": super().state_dict(), "server": self._policy.module.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the own part. The training client was created from the other one."""
        super().load_state_dict(dict(state_dict["own"]))


class TinkerLearner(Learner):
    """The learner with an optimiser step on the server."""

    def clip_and_step(self) -> dict[str, float]:
        optimizer = self.optimizer
        assert isinstance(optimizer, TinkerOptimizer)
        own = clip_gradients(optimizer, self.config.optimizer.grad_clip)
        if not all(map(math.isfinite, own.values())):
            return own
        norm = optimizer.push()
        if math.isfinite(norm):
            optimizer.step()
        return {**own, "grad_norm": norm}
