"""A policy-gradient objective as a loss of single completions, for trainers that divide by the tokens of the step.

Such a trainer (prime-rl) computes the advantages itself, calls the loss with one completion at a time, sums, and
divides by the number of tokens of the whole step: what `reduction = "token_mean"` does.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.core.protocols import Objective, PolicyGradient
from harness.core.tensors import Advantages, Batch, PolicyOutputs, Totals
from harness.trainers.config import TrainConfig


def check(config: TrainConfig) -> None:
    """Refuse an objective that is more than a sum over tokens, with the nearest that is one."""
    objective = config.objective.build()
    name = config.objective.id
    reduction = getattr(objective.config, "reduction", None)
    reads = sorted(objective.needs - {"solution_classes", "answer_classes"})
    added = {
        "kl.place": config.kl.place != "off",
        "loop.entropy_bonus": config.loop.entropy_bonus != 0,
        "overlong": config.overlong.buffer_tokens > 0 or config.overlong.mask_truncated,
        "mara": config.mara.beta > 0,
        "engine_correction": config.engine_correction.level != "off",
    }
    if not isinstance(objective, PolicyGradient) or reads or reduction != "token_mean":
        why = f"it reads {', '.join(reads)}" if reads else f"its reduction is {reduction!r}"
        raise ConfigError(
            f"prime-rl's loss sees one completion, its log-probabilities and its advantage, and {name!r} needs more "
            f"({why}): export grpo with kl_beta = 0 and reduction = 'token_mean', or train with --backend verl"
        )
    if used := [setting for setting, is_set in added.items() if is_set]:
        raise ConfigError(
            f"prime-rl's loss has nothing for {', '.join(used)}: leave it off, or train with --backend verl"
        )


@functools.cache
def _objective(choice: str) -> Objective:
    objective: Objective = parse_plugin("objectives", json.loads(choice)).build()
    return objective


def token_loss(
    choice: str, logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Return the sum over the tokens of one completion, and means to log. `choice`: the objective as JSON. (T,)"""
    rows = mask.nonzero()[:, 0]
    n_tokens = len(rows)
    lengths = torch.tensor([n_tokens], device=logp.device)
    part = Batch(
        sequence_ids=rows[None],
        prompt_lengths=torch.zeros_like(lengths),
        completion_lengths=lengths,
        completion_mask=torch.ones(1, n_tokens, dtype=torch.bool, device=logp.device),
        logp_behaviour=None,
        rewards=advantages.new_zeros(1),
        group_ids=torch.zeros_like(lengths),
        totals=Totals(1, 1),  # the trainer divides
    )
    if n_tokens == 0:
        return logp.sum() * 0.0, {}
    current, old = PolicyOutputs(logp[rows][None]), PolicyOutputs(logp_old[rows][None].detach())
    result = _objective(choice).loss(part, current, old, Advantages(advantages[rows][None].detach(), {}))
    means = {name: logp.new_tensor(total / weight) for name, (total, weight) in result.metrics.items() if weight}
    return result.loss, means
