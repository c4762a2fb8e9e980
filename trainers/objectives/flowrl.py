"""FlowRL: match the reward distribution by length-normalised trajectory balance with a learned partition function.

Paper: Zhu et al. 2025, arXiv 2509.15207 v3, section 3. To be minimised, mean over the completions y of a minibatch:

    w * ( log Z(x) + 1/|y| log policy(y|x) - beta * r_hat - 1/|y| log reference(y|x) )^2
    w = clip( policy(y|x) / old(y|x), 1 - clip_low, 1 + clip_high ), no gradient
    r_hat = (r - mean r) / (std r + 1e-6) within the prompt's group

`old` is the policy before the step. log Z(x) is an MLP on the mean of the last hidden states over the prompt. The ratio
in w is that of whole sequences (a product over tokens) while the residual takes means over tokens, as printed in the
paper. A group of equal rewards has r_hat = 0 and still has a loss: it pulls towards the reference.

Where the paper is silent the choice is ours: log Z learns alone (no gradient into the policy), from 0, without dropout,
at a rate of its own and with a gradient clip of its own (`log_z_clip`; clipped with the policy, its gradient takes most
of the norm as soon as weights leave 1). clip_low = clip_high = 0.2 is the default of the library that the paper builds
on. The authors' code differs from the paper: `flowrl_release` is the code published with it, `flowrl_recipe` their
later recipe for verl. `flowrl_ablation` changes one choice at a time: another log Z or none, another weight, no length
normalisation, another reference.

Zero loss: policy = reference exp(beta r_hat) / Z. With length normalisation the target of a whole completion is
reference exp(|y| beta r_hat): its temperature is 1 / (beta |y|), in the step record as `effective_temperature`. Where
that is small the reference term vanishes and the objective becomes a reward maximiser; a run warns of it.

What log Z learns: the square is smallest where log Z is the group's mean of beta r_hat - 1/|y| log(old / reference),
`log_z_target`, and `log_z_error` is the distance to it. The logarithm of the group's mean of the exponential of the
same, `log_z_group`, estimates the partition function itself. The two agree at zero loss only, and with beta = 15 they
are some 20 apart at first. Once weights differ from 1, the mean is weighted by w.

A group of one completion, the others not graded, has r_hat = 0 and is pulled to the reference. In verl it has the raw
reward as r_hat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Need, Requirement
from harness.core.tensors import Advantages, Batch, LossResult, ModelShape, ParameterGroup, PolicyOutputs
from harness.trainers.functional import (
    group_normalise,
    log_z_errors,
    log_z_estimates,
    sequence_mean,
    sequence_sum,
    summed,
)
from harness.trainers.objectives.base import removed_options
from harness.trainers.objectives.base.parameters import MlpHead, mlp_head


class FlowRL(MlpHead):
    @dataclass(frozen=True, slots=True)
    class Config:
        beta: float = 15.0
        clip_low: float = 0.2
        clip_high: float = 0.2
        log_z_layers: int = 3
        log_z_width: int = 0  # 0 is the model's own
        log_z_dropout: float = 0.0
        log_z_lr: float | Literal["policy"] = 1e-3
        log_z_weight_decay: float | Literal["policy"] = 0.0
        log_z_clip: Literal["own", "policy"] = "own"

        def __post_init__(self) -> None:
            if self.beta <= 0 or (self.log_z_lr != "policy" and self.log_z_lr <= 0):
                raise ValueError("beta and log_z_lr must be above 0")
            if min(self.clip_low, self.clip_high) < 0:
                raise ValueError("clip_low and clip_high must not be negative")
            if not 0 <= self.log_z_dropout < 1 or self.log_z_layers < 1 or self.log_z_width < 0:
                raise ValueError("log_z_dropout must lie in [0, 1), log_z_layers be at least 1, log_z_width at least 0")

    needs: frozenset[Need] = frozenset({"logp_old", "reference_logp", "prompt_hidden"})
    requires: frozenset[Requirement] = frozenset({"group"})
    removed_options = removed_options.FLOWRL

    config: Config

    # --- the formula

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        scaled_reward = self.config.beta * self.score(batch)  # (B,)
        log_weights = scaled_reward - self.per_sequence(old.logp - self.prior(old), batch)  # (B,)
        return Advantages(scaled_reward, log_z_estimates(log_weights, batch.group_ids))

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        log_z = self.log_z(batch, current, advantages)  # (B,)
        logp, logp_prior = self.per_sequence(current.logp, batch), self.per_sequence(self.prior(old), batch)  # (B,)
        residual = log_z + logp - advantages.values - logp_prior  # (B,)
        ratio = self.ratio((current.logp - old.logp).detach(), batch)  # (B,)
        weight = self.weight(ratio)  # (B,)
        loss = self.mean(weight * residual.square(), batch)
        errors = log_z_errors(log_z.detach(), advantages.extra)
        return LossResult(loss, summed(**errors, **self.metrics(batch, current, old, ratio)), ratio)

    def score(self, batch: Batch) -> Tensor:
        """Return r_hat. (B,)"""
        return group_normalise(batch.rewards, batch.group_ids)

    def prior(self, old: PolicyOutputs) -> Tensor:
        """Return the log-probabilities the policy is pulled to where rewards are equal. (B, T)"""
        assert old.logp_reference is not None
        return old.logp_reference

    def per_sequence(self, per_token: Tensor, batch: Batch) -> Tensor:
        """Return 1/|y| times the sum over the tokens of y. (B, T) -> (B,)"""
        return sequence_mean(per_token, batch.completion_mask)

    def ratio(self, log_ratio: Tensor, batch: Batch) -> Tensor:
        """Return the ratio of whole completions. (B, T) -> (B,)"""
        return sequence_sum(log_ratio, batch.completion_mask).exp()

    def weight(self, ratio: Tensor) -> Tensor:
        """Return w, the ratio within its bounds. (B,)"""
        return ratio.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)

    def mean(self, per_completion: Tensor, batch: Batch) -> Tensor:
        """Return this micro-batch's share of the minibatch's mean. (B,) -> ()"""
        return per_completion.sum() / batch.totals.n_completions

    # --- log Z

    def log_z(self, batch: Batch, current: PolicyOutputs, advantages: Advantages) -> Tensor:  # noqa: ARG002
        """Return log Z of each completion's prompt, equal within a group but for dropout. (B,)"""
        return self.read_head(self.prompt_state(batch, current))

    def prompt_state(self, batch: Batch, current: PolicyOutputs) -> Tensor:  # noqa: ARG002
        """Return the input of the log Z head. (B, H)"""
        assert current.prompt_hidden is not None
        return current.prompt_hidden.detach()

    def prepare(self, shape: ModelShape, seed: int, *, zero_init: bool = True) -> None:
        layers, dropout = self.config.log_z_layers, self.config.log_z_dropout
        width = self.config.log_z_width if self.config.log_z_width > 0 else None
        self.head = mlp_head(shape, layers, seed, width=width, dropout=dropout, zero_init=zero_init)

    def parameters(self) -> Sequence[ParameterGroup]:
        lr, decay = self.config.log_z_lr, self.config.log_z_weight_decay
        own_lr, own_decay = lr if lr != "policy" else None, decay if decay != "policy" else None
        own_clip = self.config.log_z_clip == "own"
        return (ParameterGroup(list(self.head.parameters()), own_lr, own_decay, own_clip),)

    # --- the step record

    def metrics(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, ratio: Tensor) -> dict[str, Tensor]:
        """Return the metrics of each completion. All (B,)"""
        weight, log_ratio = self.weight(ratio), current.logp.detach() - self.prior(old)
        return {
            "importance_weight": weight,
            "weight_clipped": (weight != ratio).double(),
            "effective_temperature": 1 / (self.config.beta * batch.completion_lengths),
            "kl_reference_per_sequence": sequence_sum(log_ratio, batch.completion_mask),
        }


OBJECTIVE = FlowRL
