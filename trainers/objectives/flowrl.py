"""FlowRL: match the reward distribution by length-normalised trajectory balance with a learned partition function.

Paper: Zhu et al. 2025, arXiv 2509.15207 v3, section 3. To be minimised, mean over the completions y of a minibatch:

    w * ( log Z(x) + 1/|y| log policy(y|x) - beta * r_hat - 1/|y| log reference(y|x) )^2
    w = clip( policy(y|x) / policy_before_the_step(y|x), 1 - clip_low, 1 + clip_high ), no gradient
    r_hat = (r - mean r) / (std r + 1e-6) within the prompt's group

log Z(x) is a perceptron on the mean of the last hidden states over the prompt. The ratio in w is that of whole
sequences (a product over tokens) while the residual takes means over tokens, as printed in the paper. A group of equal
rewards has r_hat = 0 and still has a loss: it pulls towards the reference.

Every choice on which paper, released code (github.com/Xuekai-Zhu/FlowRL, September 2025) and the recipe of verl's
authors disagree is an option, and `variant` names a set of them; an option that is given as well wins (a run's stored
config gives them all). A run tells which of them the others leave without effect (a `cap` where the weight is not
capped, a rate of a log Z that is not learned).

    option                    paper (and ours)     release                    recipe
    importance_weight         clipped              unclipped (see below)      capped at `cap` = 10
    log_z_pooling             prompt               prompt_but_last            prompt_but_last
    log_z_detach              true [1]             false                      false
    log_z_lr, weight decay    1e-3, 0 [1]          the policy's               the policy's
    log_z_dropout             0 [1]                0.1                        0.1
    log_z_from_zero           true [1]             false (torch's own)        false
    loss_scale                mean                 release (see below)        mean

[1] The paper is silent; the choice is ours. So is clip_low = clip_high = 0.2, the default of the library it builds on:
the paper never states it. The release computes the clipped weight and multiplies by the unclipped one. Its
`loss_scale` takes the mean of each micro-batch and multiplies it by 9 / completions in the minibatch, 9 being how many
metrics it logged; so the gradient depends on `tokens_per_microbatch`, and long completions weigh more, since fewer of
them fit into a micro-batch. All three take log-probabilities at the sampling temperature and beta = 15. Gradients of
`release` and `recipe` are held against a whole update of the published code, in tests/golden. Not of the loss, and so
settings of the loop: the recipe's script shapes the reward (`[overlong]` with a buffer of 4096 of 8192 tokens and a
penalty of 1, for rewards of -1 and 1); paper and release do not.

Other variants, each the paper's but for log Z: `no_log_z` leaves it out; `vargrad` estimates it by its group's mean of
beta r_hat - 1/|y| log(before / reference), without gradient; `random_z` draws it from a normal of mean 0.5 and variance
1, once a step for each prompt, and `const_z` sets it to `log_z_constant`, both after GFlowRL (arXiv 2607.13394), which
found a random log Z no worse than a learned one; the constant it took is not known to us. Also there: `anchor =
"old"` (the policy before the step in place of the reference) and "none", from the authors' later branches;
`importance_weight_over = "mean"` (geometric mean of the tokens' ratios); `group_statistics` "mean" or "none".

Identity: with `variant = "vargrad"`, weight 1 and `normalise_by_length = false` the gradient before the first update is
2 beta times that of REINFORCE with the group's mean as baseline and the reward r_hat - 1/beta log(policy / reference).
Zero loss: policy = reference exp(beta r_hat) / Z. With length normalisation the target of a whole completion is
reference exp(|y| beta r_hat): its temperature is 1 / (beta |y|), in the step record as `effective_temperature`. Where
that is small the reference term vanishes and the objective becomes a reward maximiser. `log_z_group` is the logarithm
of the group's mean of exp(beta r_hat - 1/|y| log(before / anchor)), which log Z estimates; `log_z_error` is how far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core.protocols import Need, Objective
from harness.core.training import Batch, Credit, LossResult, ModelShape, ParameterGroup, PolicyOutputs
from harness.trainers.functional import (
    group_draws,
    group_log_mean_exp,
    group_mean,
    group_normalise,
    sequence_mean,
    sequence_sum,
    trajectory_balance_residual,
)
from harness.trainers.objectives._flowrl_variants import VARIANTS, Variant, without_effect
from harness.trainers.objectives._perceptron import perceptron

RELEASED_METRICS = 9

_POOLED_FROM: Mapping[str, set[Need]] = {
    "prompt": {"prompt_hidden"},
    "last": {"prompt_last_hidden"},
    "prompt_but_last": {"prompt_hidden", "prompt_last_hidden"},
}


def _by_variant() -> Any:
    """A field that the variant fills in where it is not given."""
    return dataclasses.field(default=None)


class FlowRL:
    @dataclass(frozen=True, slots=True)
    class Config:
        variant: Variant = "paper"
        beta: float = _by_variant()
        importance_weight: Literal["clipped", "capped", "unclipped", "none"] = _by_variant()
        importance_weight_over: Literal["sum", "mean"] = _by_variant()
        clip_low: float = _by_variant()
        clip_high: float = _by_variant()
        cap: float = _by_variant()
        normalise_by_length: bool = _by_variant()
        group_statistics: Literal["mean_and_std", "mean", "none"] = _by_variant()
        anchor: Literal["reference", "old", "none"] = _by_variant()
        loss_scale: Literal["mean", "release"] = _by_variant()
        log_z: Literal["learned", "none", "group_mean", "random", "constant"] = _by_variant()
        log_z_constant: float = _by_variant()
        log_z_layers: int = _by_variant()
        log_z_width: int = _by_variant()  # 0 is the model's own
        log_z_dropout: float = _by_variant()
        log_z_pooling: Literal["prompt", "prompt_but_last", "last"] = _by_variant()
        log_z_detach: bool = _by_variant()
        log_z_from_zero: bool = _by_variant()
        log_z_lr: float | Literal["policy"] = _by_variant()
        log_z_weight_decay: float | Literal["policy"] = _by_variant()

        def __post_init__(self) -> None:
            for name, value in VARIANTS[self.variant].items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
            if self.beta <= 0 or (self.log_z_lr != "policy" and self.log_z_lr <= 0):
                raise ValueError("beta and log_z_lr must be above 0")
            if min(self.clip_low, self.clip_high) < 0 or self.cap <= 0:
                raise ValueError("clip_low and clip_high must not be negative, and cap must be above 0")
            if not 0 <= self.log_z_dropout < 1 or self.log_z_layers < 1 or self.log_z_width < 0:
                raise ValueError("log_z_dropout must lie in [0, 1), log_z_layers be at least 1, log_z_width at least 0")

    source: Literal["policy", "demonstrations"] = "policy"
    needs: frozenset[Need]
    log_z_head: nn.Module | None = None

    def __init__(self, config: Config) -> None:
        self.config = config
        needs: set[Need] = {"logp_old"}
        if config.anchor == "reference":
            needs.add("reference_logp")
        if config.log_z == "learned":
            needs |= _POOLED_FROM[config.log_z_pooling]
        if config.log_z == "group_mean" or config.group_statistics != "none":
            needs.add("group")
        self.needs = frozenset(needs)

    def prepare(self, shape: ModelShape, seed: int) -> None:
        config = self.config
        if config.log_z == "learned":
            self.log_z_head = perceptron(
                shape,
                config.log_z_layers,
                seed,
                width=config.log_z_width if config.log_z_width > 0 else None,
                dropout=config.log_z_dropout,
                from_zero=config.log_z_from_zero,
            )

    def advice(self) -> Sequence[str]:
        return without_effect(self.config)

    # --- credit

    def credit(self, batch: Batch, frozen: PolicyOutputs) -> Credit:
        pull = self.config.beta * self._scores(batch)
        log_weights = pull - self._reduced(frozen.logp - self._anchor(frozen), batch)
        extra = {"log_z_group": group_log_mean_exp(log_weights, batch.group_ids)}
        if self.config.log_z != "learned":
            extra["log_z"] = self._log_z_without_head(batch, log_weights)
        return Credit(pull, extra)

    def _scores(self, batch: Batch) -> Tensor:
        if self.config.group_statistics == "none":
            return batch.rewards
        return group_normalise(batch.rewards, batch.group_ids, by_std=self.config.group_statistics == "mean_and_std")

    def _log_z_without_head(self, batch: Batch, log_weights: Tensor) -> Tensor:
        match self.config.log_z:
            case "group_mean":
                return group_mean(log_weights, batch.group_ids)
            case "random":
                return 0.5 + group_draws(batch.group_ids, like=log_weights)
            case "constant":
                return torch.full_like(log_weights, self.config.log_z_constant)
            case _:
                return torch.zeros_like(log_weights)

    def _anchor(self, frozen: PolicyOutputs) -> Tensor:
        """What the policy is pulled to where rewards are equal. (B, T)"""
        match self.config.anchor:
            case "reference":
                assert frozen.logp_reference is not None
                return frozen.logp_reference
            case "old":
                return frozen.logp
            case "none":
                return torch.zeros_like(frozen.logp)

    def _reduced(self, values: Tensor, batch: Batch) -> Tensor:
        return (sequence_mean if self.config.normalise_by_length else sequence_sum)(values, batch.completion_mask)

    # --- loss

    def loss(self, batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, credit: Credit) -> LossResult:
        log_z = self.log_z(batch, live) if self.config.log_z == "learned" else credit.extra["log_z"]
        residual = trajectory_balance_residual(
            log_z, self._reduced(live.logp, batch), credit.weights, self._reduced(self._anchor(frozen), batch)
        )
        ratio = self.ratio((live.logp - frozen.logp).detach(), batch.completion_mask)
        weight = self.weight(ratio)
        loss = (weight * residual.square()).sum() / batch.totals.n_completions
        if self.config.loss_scale == "release":
            loss = loss * RELEASED_METRICS / len(residual)
        metrics = self._metrics(batch, live, frozen, credit, log_z.detach(), weight)
        if self.config.importance_weight in ("clipped", "capped"):
            metrics["clip_fraction"] = (float((weight != ratio).sum()), float(len(weight)))
        return LossResult(loss, metrics, ratio)

    def log_z(self, batch: Batch, live: PolicyOutputs) -> Tensor:
        """One log Z a completion from the head, the same for those of one prompt (but for dropout). (B,)"""
        assert self.log_z_head is not None
        pooled = self._pooled(batch, live)
        if self.config.log_z_detach:
            pooled = pooled.detach()
        values: Tensor = self.log_z_head(pooled.to(next(self.log_z_head.parameters()).dtype))[:, 0]
        return values

    def _pooled(self, batch: Batch, live: PolicyOutputs) -> Tensor:
        """What the head sees of the prompt. (B, H)"""
        mean, last, lengths = live.prompt_hidden, live.prompt_last_hidden, batch.prompt_lengths[:, None]
        match self.config.log_z_pooling:
            case "prompt":
                assert mean is not None
                return mean
            case "last":
                assert last is not None
                return last
            case "prompt_but_last":
                assert mean is not None and last is not None
                return (mean * lengths - last) / (lengths - 1).clamp(min=1)

    def ratio(self, log_ratio: Tensor, completion_mask: Tensor) -> Tensor:
        """Of whole completions, from the tokens' log-ratios. (B, T) -> (B,)"""
        over = sequence_sum if self.config.importance_weight_over == "sum" else sequence_mean
        return over(log_ratio, completion_mask).exp()

    def weight(self, ratio: Tensor) -> Tensor:
        """The importance weight: the ratio within its bounds. (B,) -> (B,)"""
        match self.config.importance_weight:
            case "clipped":
                return ratio.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
            case "capped":
                return ratio.clamp(max=self.config.cap)
            case "unclipped":
                return ratio
            case "none":
                return torch.ones_like(ratio)

    def _metrics(
        self, batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, credit: Credit, log_z: Tensor, weight: Tensor
    ) -> dict[str, tuple[float, float]]:
        lengths = batch.completion_lengths if self.config.normalise_by_length else torch.ones_like(batch.rewards)
        per_completion = {
            "log_z": log_z,
            "log_z_group": credit.extra["log_z_group"],
            "log_z_error": (log_z - credit.extra["log_z_group"]).abs(),
            "importance_weight": weight,
            "effective_temperature": 1 / (self.config.beta * lengths),
        }
        if frozen.logp_reference is not None:
            difference = live.logp.detach() - frozen.logp_reference
            per_completion["kl_reference_per_sequence"] = sequence_sum(difference, batch.completion_mask)
        return {name: (float(values.sum()), float(len(values))) for name, values in per_completion.items()}

    # --- parameters

    def parameters(self) -> Sequence[ParameterGroup]:
        if self.log_z_head is None:
            return ()
        lr, decay = self.config.log_z_lr, self.config.log_z_weight_decay
        return (
            ParameterGroup(
                list(self.log_z_head.parameters()),
                lr if lr != "policy" else None,
                decay if decay != "policy" else None,
            ),
        )

    def state_dict(self) -> Mapping[str, Any]:
        return self.log_z_head.state_dict() if self.log_z_head is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.log_z_head is not None:
            self.log_z_head.load_state_dict(state)


OBJECTIVE: type[Objective] = FlowRL
