"""Resets of the reference, on a schedule and when the reward stalls."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from training import make_learner
from training_parts import tiny_module

from harness.trainers.config import (
    ReferenceConfig,
)
from harness.trainers.objectives.grpo import Grpo
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.step_metrics import StepMetrics


@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_the_reference_is_reset_by_schedule_and_the_optimiser_when_asked(reset_optimizer: bool) -> None:
    policy, reference = Policy(tiny_module(0), 1.0), Policy(tiny_module(1), 1.0)
    optimizer = torch.optim.AdamW(policy.module.parameters(), lr=0.1)
    sum(p.sum() for p in policy.module.parameters()).backward()
    optimizer.step()
    settings: Any = dataclasses.make_dataclass("C", ["reference"])(
        ReferenceConfig(reset_every_steps=2, reset_optimizer=reset_optimizer)
    )
    learner = make_learner(settings, Grpo(Grpo.Config()), policy, reference, optimizer, resets=settings.reference)
    metrics = StepMetrics(1)
    metrics.set(reward=0.5)

    def is_same() -> bool:
        pairs = zip(policy.module.parameters(), reference.module.parameters(), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)

    learner.adapt(1, 4, metrics)
    assert not is_same()
    assert learner.changed_reference() is None
    learner.adapt(2, 4, metrics)
    assert is_same()
    assert metrics.row()["reference_reset"] == 1
    assert learner.changed_reference() is reference.module
    assert (len(optimizer.state) == 0) == reset_optimizer


def resets(rewards: list[float], **settings: Any) -> list[int]:
    reset = ReferenceReset(ReferenceConfig(**settings))
    return [step for step, reward in enumerate(rewards, 1) if reset.update(step, reward)]


def test_the_reference_is_reset_when_the_reward_stalls_and_the_count_restarts() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert resets(rising, reset_on_stall_steps=2) == []
    # means of two: at step 6 0.45 and 0.45; four steps later again
    stalling = [0.1, 0.2, 0.4, 0.5, 0.5, 0.4, 0.4, 0.5, 0.4, 0.5, 0.6]
    assert resets(stalling, reset_on_stall_steps=2) == [6, 10]
    assert resets(rising, reset_on_stall_steps=2, stall_margin=0.21) == [4]
    assert resets(stalling, reset_on_stall_steps=2, reset_every_steps=4) == [4, 8]
    assert resets(stalling, reset_every_steps=5) == [5, 10]
    with pytest.raises(ValueError, match="needs reset_on_stall_steps"):
        ReferenceConfig(stall_margin=0.1)
