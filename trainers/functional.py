"""Pure tensor functions shared by the objectives: no state, no hidden randomness, no clock.

Shapes: B completions, T completion positions. A mask is boolean and true at completion tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.core.tensors import Batch, LossResult, PolicyOutputs, Totals

Reduction = Literal["sequence_mean", "token_mean", "sequence_sum", "prompt_mean"]
KlEstimator = Literal["k1", "k2", "k3", "k1_plus", "k3_plus"]

# --- over tokens ------------------------------------------------------------------------------------------------


def sequence_sum(values: Tensor, completion_mask: Tensor) -> Tensor:
    """Return the sum over the tokens of each completion. (B, T) -> (B,)"""
    return (values * completion_mask).sum(1)


def sequence_mean(values: Tensor, completion_mask: Tensor) -> Tensor:
    """Return the mean over the tokens of each completion; 0 for an empty one. (B, T) -> (B,)"""
    return sequence_sum(values, completion_mask) / completion_mask.sum(1).clamp(min=1)


def reduced(per_token: Tensor, batch: Batch, reduction: Reduction) -> Tensor:
    """Return a micro-batch's share of the loss of its minibatch. (B, T) -> ()

    `sequence_mean`: mean over a completion's tokens, then over completions. `token_mean`: mean over all tokens.
    `sequence_sum`: sum over a completion's tokens, then mean over completions. `prompt_mean`: mean over all tokens of a
    prompt's completions, then over prompts.
    """
    completion_mask, totals = batch.completion_mask, batch.totals
    match reduction:
        case "prompt_mean":
            assert totals.tokens_by_prompt is not None
            shares = sequence_sum(per_token, completion_mask) / totals.tokens_by_prompt[batch.group_ids]
            return shares.sum() / (totals.tokens_by_prompt > 0).sum()
        case "sequence_mean":
            return sequence_mean(per_token, completion_mask).sum() / totals.n_completions
        case "token_mean":
            return sequence_sum(per_token, completion_mask).sum() / totals.n_tokens
        case "sequence_sum":
            return sequence_sum(per_token, completion_mask).sum() / totals.n_completions


def released_mean(per_completion: Tensor, totals: Totals) -> Tensor:
    """Return a micro-batch's share of the loss as FlowRL's released code scales it (see `flowrl_release`). (B,) -> ()

    Its factor of 9, the number of metrics it logs, stands where the number of completions of the micro-batch should.
    """
    return per_completion.sum() / totals.n_completions * 9 / len(per_completion)


def whitened(values: Tensor, completion_mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale to mean 0 and sample variance 1 over all tokens; 0 where masked. (B, T) -> (B, T)"""
    chosen = values[completion_mask]
    variance = chosen.var() if len(chosen) > 1 else chosen.new_zeros(())
    return (values - chosen.mean()) * (variance + eps).rsqrt() * completion_mask


def mean_but_last(mean: Tensor, last: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean over all positions but the last, from the mean over all. (B, H), (B, H), (B,) -> (B, H)"""
    n = lengths[:, None]
    return (mean * n - last) / (n - 1).clamp(min=1)


# --- over groups ------------------------------------------------------------------------------------------------


def group_sum(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return the sum over the group of each completion. (B,) -> (B,)"""
    index = _group_index(group_ids)
    sums = torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device)
    return sums.index_add(0, index, values)[index]


def group_mean(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return the mean over the group of each completion. (B,) -> (B,)"""
    return group_sum(values, group_ids) / group_sum(torch.ones_like(values), group_ids)


def group_normalise(rewards: Tensor, group_ids: Tensor, *, by_std: bool = True, eps: float = 1e-6) -> Tensor:
    """Return (r - mean) / (std + eps) within each group, with the sample standard deviation (n - 1). (B,) -> (B,)

    A group of equal rewards gives 0, and so does a group of one.
    """
    centred = _centred(rewards, group_ids)
    if not by_std:
        return centred
    index = _group_index(group_ids)
    sizes = index.bincount()[index]
    variance = group_mean(centred.square(), group_ids) * sizes / (sizes - 1).clamp(min=1)
    return centred / (variance.sqrt() + eps)


def leave_one_out(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """Return r minus the mean of the rest of the group; 0 in a group of one. RLOO, arXiv 2402.14740. (B,) -> (B,)"""
    index = _group_index(group_ids)
    sizes = index.bincount()[index]
    return _centred(rewards, group_ids) * sizes / (sizes - 1).clamp(min=1)


def _centred(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return each value minus the mean of its group. (B,) -> (B,)"""
    # Relative to the minimum of the group, equal values are exactly 0. A rounded mean would leave 1e-8, and dividing
    # that by a standard deviation of 1e-8 plus 1e-6 would give 0.01.
    index = _group_index(group_ids)
    least = torch.zeros_like(values).scatter_reduce(0, index, values, "amin", include_self=False)[index]
    return values - least - group_mean(values - least, group_ids)


def group_log_mean_exp(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return the log of the mean of exp(value) over the group of each completion. (B,) -> (B,)"""
    largest = group_max(values, group_ids)
    return largest + group_mean((values - largest).exp(), group_ids).log()


def group_max(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return the largest value of the group of each completion. (B,) -> (B,)"""
    index = _group_index(group_ids)
    return torch.full_like(values, -torch.inf).scatter_reduce(0, index, values, "amax")[index]


def group_softmax(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return exp(value) over its sum in the group, 0 where the value is -inf. (B,) -> (B,)"""
    largest = group_max(values, group_ids)
    weights = torch.where(values == -torch.inf, 0.0, (values - largest).exp())
    return weights / group_sum(weights, group_ids).clamp(min=torch.finfo(weights.dtype).tiny)


def group_ranks(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return how many values of the group are larger; equal ones share the mean of their ranks. (B,) -> (B,)

    A value that is not a number has no rank, and stays what it is.
    """
    order = values.argsort(descending=True)
    order = order[group_ids[order].argsort(stable=True)]  # by group, the largest value first
    places = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    index = _group_index(group_ids)
    sizes = index.bincount()
    ranks = places - (sizes.cumsum(0) - sizes)[index]
    shared = group_mean(ranks.to(values.dtype), _pair_index(index.to(values.dtype), values))
    return torch.where(values.isnan(), values, shared)


def class_sizes(classes: Tensor, group_ids: Tensor) -> Tensor:
    """Return how many completions of the group have the class of each; 1 for one without a class, -1. (B,) -> (B,)"""
    own = _pair_index(group_ids, classes)
    return torch.where(classes >= 0, own.bincount()[own], 1)


def shuffled(values: Tensor, group_ids: Tensor, is_moved: Tensor) -> Tensor:
    """Permute the values of each group's `is_moved` rows with torch's global generator. (B,), (B,), (B,) -> (B,)"""
    moved = values.clone()
    for group in torch.unique(group_ids):
        rows = ((group_ids == group) & is_moved).nonzero()[:, 0]
        moved[rows] = values[rows[torch.randperm(len(rows)).to(rows.device)]]
    return moved


def group_draws(group_ids: Tensor, like: Tensor) -> Tensor:
    """Draw a standard normal number for each group from torch's global generator, in the order of the ids. (B,)"""
    index = _group_index(group_ids)
    draws = torch.randn(int(index.max()) + 1, dtype=like.dtype)
    return draws.to(like.device)[index]


def _group_index(group_ids: Tensor) -> Tensor:
    """Return the index of each completion's group, counted from 0. (B,)"""
    index: Tensor = torch.unique(group_ids, return_inverse=True)[1]
    return index


def _pair_index(first: Tensor, second: Tensor) -> Tensor:
    """Return the index of each row's pair of values among the different pairs, counted from 0. (B,), (B,) -> (B,)"""
    pairs = torch.stack([first, second], 1)
    index: Tensor = torch.unique(pairs, dim=0, return_inverse=True)[1]
    return index


# --- over time --------------------------------------------------------------------------------------------------


def rewards_by_token(batch: Batch) -> Tensor:
    """Return the rewards of tokens, and at the last token the rest of the completion's reward. (B, T)"""
    mask = batch.completion_mask
    given = batch.token_rewards if batch.token_rewards is not None else torch.zeros_like(mask, dtype=torch.float32)
    at_end = batch.rewards - sequence_sum(given, mask)
    is_last = torch.arange(mask.shape[1], device=mask.device) == batch.completion_lengths[:, None] - 1
    return given * mask + is_last * at_end[:, None]


def discounted_returns(token_rewards: Tensor, completion_mask: Tensor, gamma: float) -> Tensor:
    """Return the discounted sum of this token's and all later rewards. (B, T) -> (B, T)"""
    return _backwards(token_rewards * completion_mask, gamma) * completion_mask


def generalised_advantage(
    token_rewards: Tensor, values: Tensor, completion_mask: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return GAE, arXiv 1506.02438 eq. 16: sum of (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t.

    Nothing follows the last token: its V_{t+1} is 0. (B, T) -> (B, T)
    """
    valued = values * completion_mask
    following = torch.nn.functional.pad(valued[:, 1:], (0, 1))
    delta = (token_rewards + gamma * following - valued) * completion_mask
    return _backwards(delta, gamma * lam) * completion_mask


def _backwards(terms: Tensor, factor: float) -> Tensor:
    """Return x_t = term_t + factor * x_{t+1}, computed from the right. (B, T) -> (B, T)"""
    summed = torch.zeros_like(terms)
    running = torch.zeros_like(terms[:, 0])
    for position in reversed(range(terms.shape[1])):
        running = terms[:, position] + factor * running
        summed[:, position] = running
    return summed


# --- terms of losses --------------------------------------------------------------------------------------------


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Tensor:
    """Return min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), to be maximised. PPO, arXiv 1707.06347 eq. 7.

    With `dual_clip` c it is at least c * A where A < 0 (arXiv 1912.09729), so that very large ratios have no gradient.
    """
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is None:
        return surrogate
    return torch.where(advantages < 0, torch.maximum(surrogate, dual_clip * advantages), surrogate)


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Bounds of a token's ratio, beyond which PPO's surrogate has no gradient."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    reduction: Reduction = "token_mean"

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise ValueError("clip_low must lie in [0, 1] (1 is off), and clip_high must not be negative")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError("dual_clip must be above 1")


def clipped_policy_gradient(
    batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Tensor, config: ClipConfig
) -> LossResult:
    """Return PPO's clipped surrogate, negated and reduced. Advantages: (B,) or (B, T)"""
    mask, log_ratio, weights = batch.completion_mask, current.logp - old.logp, by_token(advantages)
    per_token = -clipped_surrogate(log_ratio, weights, config.clip_low, config.clip_high, config.dual_clip)
    loss = reduced(per_token, batch, config.reduction)
    return LossResult(loss, {"clip_fraction": total(clipped(log_ratio.detach(), weights, config), mask)})


def clipped(log_ratio: Tensor, advantages: Tensor, config: ClipConfig) -> Tensor:
    """Mark where the clip removed the gradient."""
    ratio = log_ratio.exp()
    above = (ratio > 1 + config.clip_high) & (advantages > 0)
    below = (ratio < 1 - config.clip_low) & (advantages < 0)
    return above | below


def by_token(advantages: Tensor) -> Tensor:
    """Broadcast per-completion advantages over tokens; per-token ones stay. (B,) or (B, T) -> (B, 1) or (B, T)"""
    return advantages if advantages.dim() == 2 else advantages[:, None]


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return half the larger of (V - R)^2 and (V within `clip` of the old V - R)^2 by token; a `clip` of 0 is off."""
    error = (values - returns).square()
    if clip > 0:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2


def trajectory_balance_residual(log_z: Tensor, logp: Tensor, scaled_reward: Tensor, logp_reference: Tensor) -> Tensor:
    """Return log Z + log policy - beta * reward - log reference, zero where the flow balances. All (B,)"""
    return log_z + logp - scaled_reward - logp_reference


# --- sums for the step metrics ----------------------------------------------------------------------------------


def total(values: Tensor, completion_mask: Tensor) -> tuple[float, float]:
    """Return the sum over tokens, and their number. (B, T)"""
    return float((values.detach() * completion_mask).sum()), float(completion_mask.sum())


def summed(**per_completion: Tensor) -> dict[str, tuple[float, float]]:
    """Return for each metric the sum over completions, and their number. All (B,)"""
    return {name: (float(values.sum()), float(len(values))) for name, values in per_completion.items()}


def log_z_estimates(log_weights: Tensor, group_ids: Tensor) -> dict[str, Tensor]:
    """Return two estimates of log Z from a group's log(R / policy), which agree where the loss is zero. All (B,)

    `log_z_target` is the mean, which a squared loss fits. `log_z_group` is the logarithm of the mean of exp, which
    estimates the partition function.
    """
    return {
        "log_z_target": group_mean(log_weights, group_ids),
        "log_z_group": group_log_mean_exp(log_weights, group_ids),
    }


def log_z_errors(log_z: Tensor, estimates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return log Z, the estimates of `log_z_estimates`, and its distance from each, for `summed`. All (B,)"""
    target, group = estimates["log_z_target"], estimates["log_z_group"]
    distances = {"log_z_error": (log_z - target).abs(), "log_z_group_error": (log_z - group).abs()}
    return {"log_z": log_z, "log_z_target": target, "log_z_group": group, **distances}
