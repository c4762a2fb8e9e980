"""Weight decay and learning-rate schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.core.tensors import ModelShape
from harness.trainers.config import (
    OptimizerConfig,
)
from harness.trainers.learner import clip_gradients, make_optimizer, schedule
from harness.trainers.objectives.flowrl import FlowRL
from harness.trainers.objectives.flowrl_release import FlowRLRelease
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


def test_warmup_from_zero_is_verl_s() -> None:
    """Their LambdaLR multiplies by done / warmup, of the updates done before the step."""
    config = OptimizerConfig(lr=1.0, warmup_steps=10, warmup_from_zero=True)
    theirs = [min(1.0, done / 10) for done in range(12)]
    assert [schedule(config, step) for step in range(1, 13)] == pytest.approx(theirs)
    assert schedule(OptimizerConfig(lr=1.0, warmup_steps=10), 1) == pytest.approx(1 / 11)
    with pytest.raises(ValueError, match="warmup_from_zero needs warmup_steps"):
        OptimizerConfig(lr=1.0, warmup_from_zero=True)


def gradients_of_ten(objective: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A policy whose gradient has the norm 10, and a log Z head whose gradient has a norm of at least 10."""
    policy = torch.nn.Linear(4, 1, bias=False)
    objective.prepare(ModelShape(4, "cpu"), seed=0)
    optimizer = make_optimizer(policy, objective, OptimizerConfig(lr=0.1))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 10 / parameter.numel() ** 0.5)
    return policy, optimizer


def test_head_with_a_clip_of_its_own_leaves_the_policy_its_norm() -> None:
    policy, optimizer = gradients_of_ten(FlowRL(FlowRL.Config()))
    norms = clip_gradients(optimizer, 1.0)
    assert norms["grad_norm"] == pytest.approx(10.0) and norms["grad_norm_own"] > 10
    assert policy.weight.grad is not None
    assert float(policy.weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    own = [p.grad for group in optimizer.param_groups[1:] for p in group["params"]]
    assert float(torch.nn.utils.get_total_norm(own)) == pytest.approx(1.0, rel=1e-4)


def test_release_clips_the_head_with_the_policy() -> None:
    policy, optimizer = gradients_of_ten(FlowRLRelease(FlowRLRelease.Config()))
    norms = clip_gradients(optimizer, 1.0)
    everything = [p.grad for group in optimizer.param_groups for p in group["params"]]
    assert list(norms) == ["grad_norm"]
    assert float(torch.nn.utils.get_total_norm(everything)) == pytest.approx(1.0, rel=1e-4)
    assert policy.weight.grad is not None and float(policy.weight.grad.norm()) < 0.6


def test_gradient_clip_of_zero_is_off() -> None:
    policy, optimizer = gradients_of_ten(FlowRL(FlowRL.Config()))
    clip_gradients(optimizer, 0.0)
    assert policy.weight.grad is not None and float(policy.weight.grad.norm()) == pytest.approx(10.0)
