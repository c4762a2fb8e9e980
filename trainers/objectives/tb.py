"""Trajectory balance of GFlowNets, with a learned log Z: sample completions in proportion to exp(beta r) times a prior.

Paper: Malkin et al. 2022, arXiv 2201.13259, with P_B = 1 (a text is generated in one order, left to right) and log R =
beta r + log prior. To be minimised, mean over completions:

    ( log Z + sum_t log policy(y_t) - beta r - sum_t log prior(y_t) )^2

The prior is the reference model (`prior = "reference"`: TBA's and Lee et al.'s target, arXiv 2405.18540) or nothing
(`prior = "none"`: the target is exp(beta r) over all texts). The residual is zero everywhere exactly when policy =
prior exp(beta r) / Z. Sums over tokens, no length normalisation, no importance weight: the loss is as valid for
off-policy completions. `beta` is in nats for a whole completion, where FlowRL's is for each token; the default of 15 is
ours.

log Z is an MLP on the mean of the prompt's last hidden states (`log_z = "prompt"`, our choice, as in FlowRL), or one
number for all prompts (`log_z = "scalar"`, the paper's for one problem, Flow of Reasoning's option with a start of 5
and a rate of 1e-5). Its learning rate is larger than the policy's, as in the paper. Its gradient does not reach the
policy. `vargrad_tb` is this loss with the group's mean in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core.protocols import Need, Objective
from harness.core.tensors import Advantages, Batch, LossResult, ModelShape, ParameterGroup, PolicyOutputs
from harness.trainers.functional import (
    log_z_errors,
    log_z_estimates,
    sequence_sum,
    summed,
    trajectory_balance_residual,
)
from harness.trainers.objectives.base.parameters import mlp_head


class TrajectoryBalance(Objective):
    @dataclass(frozen=True, slots=True)
    class Config:
        beta: float = 15.0
        prior: Literal["reference", "none"] = "reference"
        log_z: Literal["prompt", "scalar"] = "prompt"
        log_z_start: float = 0.0
        log_z_layers: int = 3
        log_z_lr: float = 1e-2

        def __post_init__(self) -> None:
            if min(self.beta, self.log_z_lr) <= 0 or self.log_z_layers < 1:
                raise ValueError("beta and log_z_lr must be above 0, and log_z_layers at least 1")

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        needs: set[Need] = {"logp_old", "reference_logp"} if config.prior == "reference" else {"logp_old"}
        self.needs = frozenset(needs | ({"prompt_hidden"} if config.log_z == "prompt" else set()))
        self._own = nn.ModuleDict()
        self._own.register_parameter("start", nn.Parameter(torch.tensor(config.log_z_start)))

    def prepare(self, shape: ModelShape, seed: int) -> None:
        self._own.to(shape.device)
        if self.config.log_z == "prompt":
            self._own["head"] = mlp_head(shape, self.config.log_z_layers, seed)

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        pull = self.config.beta * batch.rewards
        log_weights = pull + self._log_prior(batch, old) - sequence_sum(old.logp, batch.completion_mask)
        return Advantages(pull, log_z_estimates(log_weights, batch.group_ids))

    def _log_prior(self, batch: Batch, old: PolicyOutputs) -> Tensor:
        if self.config.prior == "none":
            return torch.zeros_like(batch.rewards)
        assert old.logp_reference is not None
        return sequence_sum(old.logp_reference, batch.completion_mask)

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        mask, log_z = batch.completion_mask, self.log_z(batch, current)
        prior = self._log_prior(batch, old)
        residual = trajectory_balance_residual(log_z, sequence_sum(current.logp, mask), advantages.values, prior)
        errors = log_z_errors(log_z.detach(), advantages.extra)
        metrics = summed(**errors, residual_squared=residual.detach().square())
        return LossResult(residual.square().sum() / batch.totals.n_completions, metrics)

    def log_z(self, batch: Batch, current: PolicyOutputs) -> Tensor:
        """Return log Z of each completion's prompt. (B,)"""
        log_z: Tensor = self._own.get_parameter("start").expand(len(batch.rewards))
        if self.config.log_z == "scalar":
            return log_z
        assert current.prompt_hidden is not None
        from_prompt: Tensor = self._own["head"](current.prompt_hidden.detach().to(log_z.dtype))[:, 0]
        return log_z + from_prompt

    def parameters(self) -> Sequence[ParameterGroup]:
        return (ParameterGroup(list(self._own.parameters()), self.config.log_z_lr, own_clip=True),)

    def state_dict(self) -> Mapping[str, Any]:
        return self._own.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._own.load_state_dict(state)


OBJECTIVE = TrajectoryBalance
