"""Weight decay and learning-rate schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.trainers.config import (
    OptimizerConfig,
)
from harness.trainers.learner import make_optimizer, schedule
from harness.trainers.objectives.grpo import Grpo


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_weight_decay_applies_to_vectors_where_it_is_set(decay_vectors: bool) -> None:
    """AdamW takes lr * weight_decay off each weight that it falls on; without a gradient that is all."""
    module = torch.nn.Linear(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    settings = OptimizerConfig(lr=0.1, weight_decay=0.5, decay_vectors=decay_vectors)
    optimizer = make_optimizer(module, Grpo(Grpo.Config()), settings)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(module.weight.detach(), before["weight"] * 0.95)
    torch.testing.assert_close(module.bias.detach(), before["bias"] * (0.95 if decay_vectors else 1.0))
    with pytest.raises(ValueError, match="weight_decay above 0"):
        OptimizerConfig(lr=0.1, decay_vectors=True)


@pytest.mark.parametrize(
    "settings",
    [{"decay_steps": 10}, {"schedule": "cosine"}, {"schedule": "linear", "decay_steps": 5, "warmup_steps": 9}],
)
def test_a_schedule_and_its_end_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="decay_steps"):
        OptimizerConfig(lr=1.0, **settings)


def test_linear_schedule_reaches_its_end() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=2, schedule="linear", decay_steps=12, final_lr_fraction=0.1)
    assert [schedule(config, step) for step in (1, 2, 7, 12, 40)] == pytest.approx([1 / 3, 2 / 3, 0.55, 0.1, 0.1])
