"""The KL to the reference in reward and loss, its controller, and the entropy bonus."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from golden_losses import CASES, golden_batch, golden_outputs
from training_parts import detached, make_batch, make_outputs

from harness.core import config as configs
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.config import (
    KlConfig,
)
from harness.trainers.kl import AdaptiveKl, with_entropy_bonus, with_kl_in_loss, with_kl_in_reward
from harness.trainers.objectives.grpo import Grpo

BATCH = make_batch([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0.5, 0, 1])


def grpo_loss(batch: Batch, current: PolicyOutputs, old: PolicyOutputs, **options: Any) -> Any:
    objective = Grpo(Grpo.Config(reduction="token_mean", kl_beta=0.0, **options))
    return objective.loss(batch, current, old, objective.advantages(batch, old))


def test_kl_in_the_reward_is_subtracted_by_token() -> None:
    old = detached(make_outputs(BATCH))
    assert old.logp_reference is not None
    after = with_kl_in_reward(BATCH, old, KlConfig(place="reward", coefficient=0.3))
    assert after.token_rewards is not None
    for row, n in enumerate([3, 5, 1, 4, 2, 5]):
        kl = [float(old.logp[row, t] - old.logp_reference[row, t]) for t in range(n)]
        assert after.token_rewards[row].tolist() == pytest.approx([*(-0.3 * k for k in kl), *[0.0] * (5 - n)])
        assert float(after.rewards[row]) == pytest.approx(float(BATCH.rewards[row]) - 0.3 * sum(kl))


def test_ratio_weighted_kl_in_the_loss_equals_trls() -> None:
    batch, (current, old) = golden_batch(), golden_outputs()
    result = grpo_loss(batch, current, old, advantage=parse_plugin("advantages", {"id": "group", "eps": 1e-4}))
    kl = KlConfig(place="loss", coefficient=0.5, estimator="k3", ratio_weighted=True)
    loss = with_kl_in_loss(result, batch, current, old, kl).loss
    (gradient,) = torch.autograd.grad(loss, current.logp)
    assert float(loss.detach()) == pytest.approx(CASES["trl_weighted_kl"]["loss"], rel=1e-7)
    expected = torch.tensor(CASES["trl_weighted_kl"]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("estimator", "ratio_weighted", "is_right"),
    [
        ("k2", False, True),
        ("k1_plus", False, True),
        ("k3_plus", False, True),
        ("k3", False, False),
        ("k1", True, True),
        ("k3", True, True),
    ],
)
def test_gradient_of_the_kl_estimators_on_three_tokens(estimator: Any, ratio_weighted: bool, is_right: bool) -> None:
    """The expectation over every token of a distribution, against the gradient of the KL itself."""
    logits = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.5, -0.4], dtype=torch.float64).log_softmax(0)
    logp = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits, retain_graph=True)
    batch = make_batch([1] * 3, [1] * 3, [0, 0, 0])
    current, old = PolicyOutputs(logp=logp[:, None]), PolicyOutputs(logp=logp.detach()[:, None])
    old = dataclasses.replace(old, logp_reference=reference[:, None])
    total = torch.zeros(3, dtype=torch.float64)
    for token in range(3):  # one at a time, weighed by how often it is sampled
        alone = dataclasses.replace(batch, completion_mask=torch.arange(3)[:, None] == token)
        kl = KlConfig(place="loss", coefficient=3.0, estimator=estimator, ratio_weighted=ratio_weighted)
        nothing = grpo_loss(alone, current, old)
        nothing = dataclasses.replace(nothing, loss=nothing.loss * 0)
        (gradient,) = torch.autograd.grad(
            with_kl_in_loss(nothing, alone, current, old, kl).loss, logits, retain_graph=True
        )
        total += float(logp[token].detach().exp()) * gradient
    assert torch.allclose(total, expected, rtol=1e-9, atol=1e-12) == is_right


def test_entropy_bonus_is_the_mean_entropy_of_tokens() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    plain = grpo_loss(BATCH, current, old)
    assert current.entropy is not None
    mean = sum(float(current.entropy[row, :n].sum()) for row, n in enumerate([3, 5, 1, 4, 2, 5])) / 20
    after = with_entropy_bonus(plain, BATCH, current, 0.01).loss
    assert float((plain.loss - after).detach()) == pytest.approx(0.01 * mean)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"place": "loss", "estimator": "k1"}, "zero on average"),
        ({"place": "reward", "ratio_weighted": True}, "in the loss"),
        ({"place": "loss", "estimator": "k2", "coefficient": 0.0}, "above 0"),
    ],
)
def test_kl_settings_without_effect_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        configs.parse(KlConfig, settings)


def test_the_adaptive_kl_coefficient_changes_by_at_most_a_fifth_of_completions_over_horizon() -> None:
    adaptive = AdaptiveKl(KlConfig(place="loss", coefficient=0.1, estimator="k2", target=0.02, horizon=1000))
    expected = 0.1
    for kl, n in [(0.03, 50), (0.021, 50), (0.02, 200), (0.0, 100), (-0.01, 100), (0.5, 1000)]:
        adaptive.adapt(kl, n)
        expected *= 1 + max(-0.2, min(0.2, (kl - 0.02) / 0.02)) * n / 1000
        assert adaptive.config.coefficient == pytest.approx(expected)
    fixed = AdaptiveKl(KlConfig(place="loss", coefficient=0.1, estimator="k2"))
    fixed.adapt(5.0, 1000)
    assert fixed.config.coefficient == 0.1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"place": "loss", "estimator": "k2", "horizon": 5}, "no effect without kl.target"),
        ({"place": "loss", "estimator": "k2", "target": 0.0}, "above 0"),
        ({"target": 0.1}, "place = 'off'"),
    ],
)
def test_contradictory_kl_targets_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        configs.parse(KlConfig, settings)
