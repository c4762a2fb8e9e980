"""The learner: old log-probs from the engine, the values of a critic, its state in a checkpoint."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
import torch
from training import make_learner
from training_parts import detached, make_batch, make_outputs, tiny_module

from harness.core.errors import EngineError
from harness.trainers.config import (
    EngineCorrectionConfig,
    KlConfig,
    LoopConfig,
    ReferenceConfig,
)
from harness.trainers.engine_mismatch import engine_weights
from harness.trainers.kl import AdaptiveKl
from harness.trainers.objectives.grpo import Grpo
from harness.trainers.objectives.ppo import Ppo
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.step_metrics import StepMetrics

BATCH = make_batch([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0.5, 0, 1])


def test_a_learner_without_engine_log_probs_fails_where_it_needs_them() -> None:
    old = detached(make_outputs(BATCH))
    with pytest.raises(EngineError, match="gives no log-probabilities"):
        engine_weights(BATCH, old.logp, EngineCorrectionConfig(level="token"))
    policy, loop = (
        Policy(tiny_module(), 1.0),
        LoopConfig(steps=1, prompts_per_step=1, samples_per_prompt=2, logp_old="engine"),
    )
    config: Any = dataclasses.make_dataclass("C", ["loop"])(loop)
    optimizer = torch.optim.AdamW(policy.module.parameters())
    # The log-probabilities are made up, and no policy's own.
    learner = make_learner(config, Grpo(Grpo.Config(kl_beta=0.0)), policy, None, optimizer, 100.0, is_exact=False)
    with pytest.raises(EngineError, match="logp_old = 'recompute'"):
        learner._old_outputs(1, BATCH, StepMetrics(1))
    behaviour = make_outputs(BATCH, seed=4).logp.detach()
    batch = dataclasses.replace(BATCH, logp_behaviour=behaviour)
    assert torch.equal(learner._old_outputs(1, batch, StepMetrics(1)).logp, behaviour)
    with_critic = dataclasses.replace(learner, objective=critic(policy))
    assert torch.equal(with_critic._old_outputs(1, batch, StepMetrics(1)).logp, behaviour)


def critic(policy: Policy) -> Ppo:
    """With a head whose values are not zero."""
    objective = Ppo(Ppo.Config())
    objective.prepare(policy.shape, seed=0)
    torch.nn.init.normal_(objective.head[-1].weight, generator=torch.Generator().manual_seed(3))
    return objective


def test_a_critics_values_are_computed_by_micro_batch_and_states_are_dropped() -> None:
    policy = Policy(tiny_module(), 1.0)
    objective = critic(policy)
    loop = LoopConfig(steps=1, prompts_per_step=2, samples_per_prompt=3, tokens_per_microbatch=2)
    config: Any = dataclasses.make_dataclass("C", ["loop"])(loop)
    learner = make_learner(config, objective, policy)
    old = learner._old_outputs(1, BATCH, StepMetrics(1))
    kept = {f.name: v for f in dataclasses.fields(old) if (v := getattr(old, f.name)) is not None}
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {"logp": (6, 5), "values": (6, 5)}
    for row, (p, c) in enumerate(zip([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], strict=True)):
        ids = BATCH.sequence_ids[row : row + 1, : p + c]
        states = policy.module(ids, output_hidden_states=True).hidden_states[-1][0, p - 1 : p + c - 1]
        with torch.no_grad():
            torch.testing.assert_close(old.values[row, :c], objective.head(states)[:, 0], rtol=1e-4, atol=1e-4)
    whole = make_outputs(BATCH, policy.shape.hidden_size)
    whole = dataclasses.replace(whole, completion_hidden=whole.completion_hidden.float(), logp=whole.logp.detach())
    with torch.no_grad():
        pieced = dataclasses.replace(whole, values=objective.values(whole), completion_hidden=None)
    one, other = objective.advantages(BATCH, whole), objective.advantages(BATCH, pieced)
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.extra["values"], other.extra["values"])


def test_kl_controller_and_reference_resets_survive_a_round_trip() -> None:
    kl = KlConfig(place="loss", estimator="k2", target=0.02)
    one, other = ((AdaptiveKl(kl), ReferenceReset(ReferenceConfig(reset_on_stall_steps=2))) for _ in range(2))
    for step, reward in enumerate([0.3, 0.2, 0.1, 0.1, 0.2], 1):
        one[0].adapt(0.1, 64)
        one[1].update(step, reward)
    assert one[1].n_resets == 1
    for mine, restored in zip(one, other, strict=True):
        stored = io.BytesIO()
        torch.save(dict(mine.state_dict()), stored)
        stored.seek(0)
        restored.load_state_dict(torch.load(stored, weights_only=True))
        assert restored.state_dict() == mine.state_dict()
    rewards = [0.2, 0.2, 0.1, 0.0]
    assert [one[1].update(step, r) for step, r in enumerate(rewards)] == [
        other[1].update(step, r) for step, r in enumerate(rewards)
    ]
