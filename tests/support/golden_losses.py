"""The stored numbers of verl's and TRL's losses, and their inputs as tensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from training_parts import make_batch

from harness.core.tensors import Batch, PolicyOutputs

GOLDEN = json.loads((Path(__file__).parents[1] / "trainers" / "objectives" / "golden" / "losses.json").read_text())
INPUTS, CASES = GOLDEN["inputs"], GOLDEN["cases"]


def tensor(name: str) -> torch.Tensor:
    return torch.tensor(INPUTS[name], dtype=torch.float64)


def golden_batch() -> Batch:
    """One position wider than its longest completion, as in the stored numbers."""
    lengths = INPUTS["lengths"]
    batch = make_batch([2] * len(lengths), lengths, INPUTS["groups"])
    mask = torch.arange(len(INPUTS["logp"][0])) < batch.completion_lengths[:, None]
    return dataclasses.replace(
        batch, completion_mask=mask, rewards=tensor("rewards"), greedy_rewards=tensor("greedy_rewards")
    )


def golden_outputs() -> tuple[PolicyOutputs, PolicyOutputs]:
    current = PolicyOutputs(logp=tensor("logp").requires_grad_(), completion_hidden=tensor("values")[..., None])
    old = PolicyOutputs(
        logp=tensor("logp_old"),
        logp_reference=tensor("logp_reference"),
        completion_hidden=tensor("values_old")[..., None],
    )
    return current, old
