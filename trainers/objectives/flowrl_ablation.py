"""FlowRL with single choices changed: one option for each method of `flowrl` that it overrides.

Paper: Zhu et al. 2025, arXiv 2509.15207. With the defaults it is `flowrl`; with those of the released code it is
`flowrl_release`. To be minimised, as `flowrl` but for:

    option                      paper               others
    importance_weight           clipped             capped at `cap` | unclipped | none (w = 1)
    importance_weight_over      sum                 mean: the geometric mean of the tokens' ratios
    normalise_by_length         true                false: sums over tokens; the paper's figure 6
    group_statistics            mean_and_std        mean: r_hat = r - mean r | none: r_hat = r
    anchor                      reference           old: the policy before the step | none: 0; the authors' branches
    loss_scale                  mean                release: see `flowrl_release`
    log_z                       learned             none: log Z = 0
                                                    group_mean: the mean over the group, without gradient, of
                                                    beta r_hat - 1/|y| log(old / anchor), as in VarGrad
                                                    random: from a normal of mean 0.5 and variance 1, once a step
                                                    for each prompt
                                                    constant: `log_z_constant`
    log_z_pooling               prompt              prompt_but_last | last: the last token alone
    log_z_detach                true                false: its gradient flows into the policy
    log_z_from_zero             true                false: torch's own initialisation

`random` and `constant` are after GFlowRL (arXiv 2607.13394), which found a random log Z no worse than a learned one;
the constant it took is not known to us. The recipes `countdown-flowrl_no_log_z`, `countdown-flowrl_vargrad` and
`countdown-flowrl_random_z` are of this objective.

Identity: with `log_z = "group_mean"`, weight 1 and `normalise_by_length = false` the gradient before the first update
is 2 beta times that of REINFORCE with the group's mean as baseline and the reward r_hat - 1/beta log(policy /
reference).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness.core.protocols import Need
from harness.core.tensors import Advantages, Batch, ModelShape, ParameterGroup, PolicyOutputs
from harness.trainers.functional import (
    group_draws,
    group_mean,
    group_normalise,
    mean_but_last,
    released_mean,
    sequence_mean,
    sequence_sum,
)
from harness.trainers.objectives.flowrl import FlowRL

POOLED_FROM: dict[str, set[Need]] = {
    "prompt": {"prompt_hidden"},
    "last": {"prompt_last_hidden"},
    "prompt_but_last": {"prompt_hidden", "prompt_last_hidden"},
}


class FlowRLAblation(FlowRL):
    @dataclass(frozen=True, slots=True)
    class Config(FlowRL.Config):
        importance_weight: Literal["clipped", "capped", "unclipped", "none"] = "clipped"
        importance_weight_over: Literal["sum", "mean"] = "sum"
        cap: float = 10.0
        normalise_by_length: bool = True
        group_statistics: Literal["mean_and_std", "mean", "none"] = "mean_and_std"
        anchor: Literal["reference", "old", "none"] = "reference"
        loss_scale: Literal["mean", "release"] = "mean"
        log_z: Literal["learned", "none", "group_mean", "random", "constant"] = "learned"
        log_z_constant: float = 0.5
        log_z_pooling: Literal["prompt", "prompt_but_last", "last"] = "prompt"
        log_z_detach: bool = True
        log_z_from_zero: bool = True

        def __post_init__(self) -> None:
            FlowRL.Config.__post_init__(self)
            if self.cap <= 0:
                raise ValueError("cap must be above 0")
            changed = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default}
            weight, log_z = self.importance_weight, self.log_z
            if weight != "clipped" and (ignored := changed & {"clip_low", "clip_high"}):
                raise ValueError(f"importance_weight = {weight!r} does not use {', '.join(sorted(ignored))}")
            if weight != "capped" and "cap" in changed:
                raise ValueError(f"importance_weight = {weight!r} does not use cap")
            if log_z != "constant" and "log_z_constant" in changed:
                raise ValueError(f"log_z = {log_z!r} does not use log_z_constant")
            of_head = {name for name in changed if name.startswith("log_z_")} - {"log_z_constant"}
            if log_z != "learned" and of_head:
                raise ValueError(f"log_z = {log_z!r} does not use {', '.join(sorted(of_head))}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        needs: set[Need] = {"logp_old"}
        if config.anchor == "reference":
            needs.add("reference_logp")
        if config.log_z == "learned":
            needs |= POOLED_FROM[config.log_z_pooling]
        self.needs = frozenset(needs)
        compares = config.log_z == "group_mean" or config.group_statistics != "none"
        self.requires = frozenset({"group"} if compares else set())

    def weight(self, ratio: Tensor) -> Tensor:
        match self.config.importance_weight:
            case "clipped":
                return super().weight(ratio)
            case "capped":
                return ratio.clamp(max=self.config.cap)
            case "unclipped":
                return ratio
            case "none":
                return torch.ones_like(ratio)

    def ratio(self, log_ratio: Tensor, batch: Batch) -> Tensor:
        if self.config.importance_weight_over == "sum":
            return super().ratio(log_ratio, batch)
        return sequence_mean(log_ratio, batch.completion_mask).exp()

    def per_sequence(self, per_token: Tensor, batch: Batch) -> Tensor:
        if self.config.normalise_by_length:
            return super().per_sequence(per_token, batch)
        return sequence_sum(per_token, batch.completion_mask)

    def score(self, batch: Batch) -> Tensor:
        match self.config.group_statistics:
            case "mean_and_std":
                return super().score(batch)
            case "mean":
                return group_normalise(batch.rewards, batch.group_ids, by_std=False)
            case "none":
                return batch.rewards

    def prior(self, old: PolicyOutputs) -> Tensor:
        match self.config.anchor:
            case "reference":
                return super().prior(old)
            case "old":
                return old.logp
            case "none":
                return torch.zeros_like(old.logp)

    def mean(self, per_completion: Tensor, batch: Batch) -> Tensor:
        if self.config.loss_scale == "mean":
            return super().mean(per_completion, batch)
        return released_mean(per_completion, batch.totals)

    # --- log Z

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:
        learned = super().advantages(batch, old)
        group_estimate = learned.extra["log_z_group"]  # (B,)
        match self.config.log_z:
            case "learned":
                return learned
            case "none":
                log_z = torch.zeros_like(group_estimate)
            case "group_mean":
                drift = self.per_sequence(old.logp - self.prior(old), batch)  # (B,)
                log_z = group_mean(learned.values - drift, batch.group_ids)
            case "random":
                log_z = 0.5 + group_draws(batch.group_ids, like=group_estimate)
            case "constant":
                log_z = torch.full_like(group_estimate, self.config.log_z_constant)
        return Advantages(learned.values, {**learned.extra, "log_z": log_z})

    def log_z(self, batch: Batch, current: PolicyOutputs, advantages: Advantages) -> Tensor:
        return (
            super().log_z(batch, current, advantages) if self.config.log_z == "learned" else advantages.extra["log_z"]
        )

    def prompt_state(self, batch: Batch, current: PolicyOutputs) -> Tensor:
        mean, last = current.prompt_hidden, current.prompt_last_hidden
        match self.config.log_z_pooling:
            case "prompt":
                state = mean
            case "last":
                state = last
            case "prompt_but_last":
                assert mean is not None and last is not None
                state = mean_but_last(mean, last, batch.prompt_lengths)
        assert state is not None
        return state.detach() if self.config.log_z_detach else state

    def prepare(self, shape: ModelShape, seed: int, *, zero_init: bool = True) -> None:
        super().prepare(shape, seed, zero_init=zero_init and self.config.log_z_from_zero)
        if self.config.log_z != "learned":
            self.head = nn.Sequential()

    def parameters(self) -> Sequence[ParameterGroup]:
        return super().parameters() if self.config.log_z == "learned" else ()

    # --- the step record

    def metrics(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, ratio: Tensor) -> dict[str, Tensor]:
        metrics = super().metrics(batch, current, old, ratio)
        if not self.config.normalise_by_length:
            metrics["effective_temperature"] = 1 / (self.config.beta * torch.ones_like(batch.rewards))
        if self.config.anchor != "reference":
            del metrics["kl_reference_per_sequence"]
        if self.config.importance_weight == "none":  # no weight, so no bound that it could be at
            del metrics["weight_clipped"]
        return metrics


OBJECTIVE = FlowRLAblation
