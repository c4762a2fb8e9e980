"""What a step's updates are judged by beside their loss: importance ratios, and how far sampler and trainer differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness.core.tensors import Batch, LossResult, PolicyOutputs

QUANTILES = {"p01": 0.01, "p50": 0.5, "p99": 0.99, "max": 1.0}


def ratios_of(part: Batch, current: PolicyOutputs, old: PolicyOutputs, result: LossResult) -> Tensor:
    """Policy over the policy before the step: the ratios that the loss took, before any bound; else those of tokens."""
    if result.ratios is not None:
        return result.ratios.detach().float().cpu()
    return (current.logp.detach() - old.logp)[part.completion_mask].exp().float().cpu()


def quantiles(ratios: Sequence[Tensor]) -> dict[str, float]:
    """The smallest ratio with at least that share of all at or below it."""
    if not ratios:
        return {}
    ordered = torch.cat(list(ratios)).clamp(max=torch.finfo(torch.float32).max).sort().values
    places = {name: math.ceil(share * len(ordered)) - 1 for name, share in QUANTILES.items()}
    return {f"ratio_{name}": float(ordered[place]) for name, place in places.items()}


def logp_gap(part: Batch, current: PolicyOutputs) -> Mapping[str, Tensor]:
    """Between the policy's log-probabilities and those of the engine that sampled, while their weights are the same.

    By token: the distance, and an unbiased estimate of KL(engine || policy).
    """
    if part.logp_behaviour is None:
        return {}
    difference = (current.logp.detach() - part.logp_behaviour)[part.completion_mask].float().cpu()
    return {"logp_gap": difference.abs(), "logp_gap_kl": difference.exp() - 1 - difference}
