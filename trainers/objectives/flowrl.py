"""FlowRL: match the reward distribution by length-normalised trajectory balance with a learned partition function.

Paper: Zhu et al. 2025, arXiv 2509.15207 v3, section 3. To be minimised, mean over the completions y of a minibatch:

    w * ( log Z(x) + 1/|y| log policy(y|x) - beta * r_hat - 1/|y| log reference(y|x) )^2
    w = clip( policy(y|x) / policy_before_the_step(y|x), 1 - clip_low, 1 + clip_high ), no gradient
    r_hat = (r - mean r) / (std r + eps) within the prompt's group

log Z(x) is a three-layer perceptron on the mean of the last hidden states over the prompt. The ratio in w is that of
whole sequences (a product over tokens) while the residual takes means over tokens, as printed in the paper. A group
of equal rewards has r_hat = 0 and still has a loss: it pulls towards the reference.

What differs from the authors' released code (which computes the clip and then multiplies by the unclipped ratio;
leaves out the prompt's last token; lets the gradient of log Z into the policy; trains log Z with the policy's
learning rate; keeps dropout 0.1 in it): here, by default, w is clipped as in the paper, the whole prompt is pooled,
log Z learns alone (`log_z_detach`) with a rate of its own, without dropout, and its last layer starts at zero, so
that log Z is 0 before the first step. `importance_weight = "unclipped"`, `log_z_detach = false`, `log_z_dropout =
0.1` and `log_z_lr` bring the release's choices back, except for its pooling and its loss scale, which was the
constant 9 over the minibatch size.

The paper does not state clip_low and clip_high; 0.2 is the default of the library its code is built on. The pull
on a whole completion is beta * |y| nats per unit of r_hat (`beta_times_length` in the step record): where that is
large the reference term vanishes and the objective becomes a reward maximiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core.protocols import (
    Batch,
    Credit,
    LossResult,
    ModelShape,
    Need,
    Objective,
    ParameterGroup,
    PolicyOutputs,
)
from harness.trainers.functional import group_normalise, sequence_mean, sequence_sum, trajectory_balance_residual

Weight = Literal["clipped", "capped", "unclipped", "none"]


class FlowRL:
    @dataclass(frozen=True, slots=True)
    class Config:
        beta: float = 15.0
        importance_weight: Weight = "clipped"
        clip_low: float = 0.2
        clip_high: float = 0.2
        cap: float = 10.0
        normalise_by_length: bool = True
        log_z_layers: int = 3
        log_z_lr: float = 1e-3
        log_z_weight_decay: float = 0.0
        log_z_dropout: float = 0.0
        log_z_detach: bool = True

        def __post_init__(self) -> None:
            if self.log_z_lr <= 0 or not 0 <= self.log_z_dropout < 1 or self.log_z_layers < 1:
                raise ValueError("log_z_lr must be above 0, log_z_dropout in [0, 1), log_z_layers at least 1")

    source: Literal["policy", "demonstrations"] = "policy"
    needs: frozenset[Need] = frozenset({"reference_logp", "prompt_hidden"})
    log_z_head: nn.Module

    def __init__(self, config: Config) -> None:
        self.config = config

    def prepare(self, shape: ModelShape, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = log_z_head(shape.hidden_size, self.config.log_z_layers, self.config.log_z_dropout)
        self.log_z_head = head.to(shape.device)

    def credit(self, batch: Batch, frozen: PolicyOutputs) -> Credit:  # noqa: ARG002
        return Credit(group_normalise(batch.rewards, batch.group_ids), {})

    def loss(self, batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, credit: Credit) -> LossResult:
        assert frozen.logp_reference is not None
        mask = batch.completion_mask
        reduced = sequence_mean if self.config.normalise_by_length else sequence_sum
        log_z = self.log_z(live)
        residual = trajectory_balance_residual(
            log_z, reduced(live.logp, mask), self.config.beta * credit.weights, reduced(frozen.logp_reference, mask)
        )
        weight = self.weight(sequence_sum(live.logp - frozen.logp, mask).detach())
        loss = (weight * residual.square()).sum() / batch.totals.n_completions
        return LossResult(loss, self._metrics(batch, live, frozen, log_z, weight))

    def log_z(self, live: PolicyOutputs) -> Tensor:
        """One log Z a completion, the same for those of one prompt (but for dropout). (B,)"""
        assert live.prompt_hidden is not None
        pooled = live.prompt_hidden.detach() if self.config.log_z_detach else live.prompt_hidden
        values: Tensor = self.log_z_head(pooled.to(next(self.log_z_head.parameters()).dtype))[:, 0]
        return values

    def weight(self, log_ratio: Tensor) -> Tensor:
        """The importance weight from the log-ratio of whole sequences. (B,) -> (B,)"""
        match self.config.importance_weight:
            case "clipped":
                return log_ratio.exp().clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
            case "capped":
                return log_ratio.exp().clamp(max=self.config.cap)
            case "unclipped":
                return log_ratio.exp()
            case "none":
                return torch.ones_like(log_ratio)

    def _metrics(
        self, batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, log_z: Tensor, weight: Tensor
    ) -> dict[str, tuple[float, float]]:
        assert frozen.logp_reference is not None
        kl = sequence_sum(live.logp.detach() - frozen.logp_reference, batch.completion_mask)
        per_completion = {
            "log_z": log_z.detach(),
            "importance_weight": weight,
            "kl_reference_per_sequence": kl,
            "beta_times_length": self.config.beta * batch.completion_lengths,
        }
        return {name: (float(values.sum()), float(len(values))) for name, values in per_completion.items()}

    def parameters(self) -> Sequence[ParameterGroup]:
        own = list(self.log_z_head.parameters())
        return (ParameterGroup(own, self.config.log_z_lr, self.config.log_z_weight_decay),)

    def state_dict(self) -> Mapping[str, Any]:
        return self.log_z_head.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.log_z_head.load_state_dict(state)


def log_z_head(hidden_size: int, n_layers: int, dropout: float) -> nn.Module:
    """Linear, GELU, LayerNorm, dropout, repeated; then a linear layer to one number that starts at zero."""
    layers: list[nn.Module] = []
    for _ in range(n_layers - 1):
        layers += [nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.LayerNorm(hidden_size), nn.Dropout(dropout)]
    last = nn.Linear(hidden_size, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


OBJECTIVE: type[Objective] = FlowRL
