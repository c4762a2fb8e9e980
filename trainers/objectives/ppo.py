"""Proximal Policy Optimisation: clipped surrogate, with advantages from a learned value of each state.

Paper: Schulman et al. 2017, arXiv 1707.06347, eq. 7 and 9; advantages of arXiv 1506.02438, eq. 16. To be minimised:

    - min(rho A_t, clip(rho, 1 - clip_low, 1 + clip_high) A_t)                    mean over tokens
    + value_coefficient * 1/2 max( (V - R)^2, (clip(V, V_old -+ value_clip) - R)^2 )     mean over tokens
    A_t = whiten( sum_l (gamma lam)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l}) ),  R_t = A_t before whitening + V_old

r is the outcome at the last token and, with the loop's `kl.place = "reward"`, minus the KL of each token. V_old and the
advantages are those of the old policy. With the same advantages the first line is GRPO's surrogate.

Differences from verl and the RLHF papers: the critic is an MLP on the policy's last hidden state (the one that predicts
the token), not a second language model. It costs no second model, and depends on the policy's features. By default its
gradient does not reach the policy (`value_detach`), and it has a learning rate of its own; the norm of the gradient is
clipped over policy and critic together. Its last layer starts at zero. The defaults gamma = lam = 1, the token mean and
the value clip of 0.5 are verl's, and so is whitening; the paper has no whitening and clips no value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.protocols import Need
from harness.core.tensors import Advantages, Batch, LossResult, ModelShape, ParameterGroup, PolicyOutputs
from harness.trainers.functional import (
    ClipConfig,
    clipped_policy_gradient,
    clipped_value_loss,
    generalised_advantage,
    reduced,
    rewards_by_token,
    total,
    whitened,
)
from harness.trainers.objectives.base.parameters import MlpHead, mlp_head


class Ppo(MlpHead):
    @dataclass(frozen=True, slots=True)
    class Config(ClipConfig):
        gamma: float = 1.0
        lam: float = 1.0
        whiten: bool = True
        value_coefficient: float = 1.0
        value_clip: float = 0.5  # 0 is off
        value_layers: int = 2
        value_lr: float = 1e-3
        value_weight_decay: float = 0.01
        value_detach: bool = True

        def __post_init__(self) -> None:
            ClipConfig.__post_init__(self)
            if not 0 <= self.gamma <= 1 or not 0 <= self.lam <= 1:
                raise ValueError("gamma and lam must lie in [0, 1]")
            if min(self.value_clip, self.value_weight_decay) < 0:
                raise ValueError("value_clip and value_weight_decay must not be negative")
            if self.value_lr <= 0 or self.value_layers < 1 or self.value_coefficient <= 0:
                raise ValueError("value_lr and value_coefficient must be above 0, and value_layers at least 1")

    needs: frozenset[Need] = frozenset({"completion_hidden"})

    config: Config

    def prepare(self, shape: ModelShape, seed: int) -> None:
        self.head = mlp_head(shape, self.config.value_layers, seed)

    @torch.no_grad()
    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        mask, rewards = batch.completion_mask, rewards_by_token(batch)
        values = old.values if old.values is not None else self.values(old)
        advantages = generalised_advantage(rewards, values, mask, self.config.gamma, self.config.lam)
        weights = whitened(advantages, mask) if self.config.whiten else advantages
        return Advantages(weights, {"values": values, "returns": advantages + values})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        result = clipped_policy_gradient(batch, current, old, advantages.values, self.config)
        values, returns, mask = self.values(current), advantages.extra["returns"], batch.completion_mask
        error = clipped_value_loss(values, advantages.extra["values"], returns, self.config.value_clip)
        value_loss = reduced(error, batch, "token_mean")
        metrics = {**result.metrics, "value_loss": total(error, mask), "value": total(values, mask)}
        return dataclasses.replace(
            result, loss=result.loss + self.config.value_coefficient * value_loss, metrics=metrics
        )

    def values(self, outputs: PolicyOutputs) -> Tensor:
        """Return the critic's estimate of the rewards to come, before each token. (B, T)"""
        assert outputs.completion_hidden is not None
        hidden = outputs.completion_hidden.detach() if self.config.value_detach else outputs.completion_hidden
        return self.read_head(hidden)

    def parameters(self) -> Sequence[ParameterGroup]:
        own = list(self.head.parameters())
        return (ParameterGroup(own, self.config.value_lr, self.config.value_weight_decay),)


OBJECTIVE = Ppo
