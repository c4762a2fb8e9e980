"""AdamW over the policy and the objective's own parameters, its learning-rate schedule, and gradient clipping."""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.core.protocols import Objective
from harness.trainers.config import OptimizerConfig


def make_optimizer(module: Any, objective: Objective, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW. Weight decay applies to matrices, and to vectors where `decay_vectors` is set."""
    trained = [p for p in module.parameters() if p.requires_grad]
    on_vectors = config.weight_decay if config.decay_vectors else 0.0
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay, "lr": config.lr},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": on_vectors, "lr": config.lr},
    ]
    groups += [
        {
            "params": list(group.parameters),
            "weight_decay": group.weight_decay if group.weight_decay is not None else config.weight_decay,
            "lr": group.lr if group.lr is not None else config.lr,
        }
        for group in objective.parameters()
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int) -> float:
    """Set the learning rates of a step, counted from 1; return that of the policy."""
    factor = schedule(config, step)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return config.lr * factor


def schedule(config: OptimizerConfig, step: int) -> float:
    """Return the factor on all rates: linear warm-up, then constant or a decay that ends at `decay_steps`."""
    if step <= config.warmup_steps:
        return step / (config.warmup_steps + 1)
    if config.schedule == "constant" or config.decay_steps is None:
        return 1.0
    span = max(1, config.decay_steps - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / span)
    left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * left


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Clip the gradients and return their norm before clipping. A `max_norm` of 0 is off."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)
