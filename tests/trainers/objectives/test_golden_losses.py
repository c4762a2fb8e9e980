"""Values and gradients against verl's and TRL's own functions; see `golden/make_losses.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_losses import CASES, golden_batch, golden_outputs, tensor

from harness.core.config import parse_plugin
from harness.core.registry import load
from harness.core.tensors import ModelShape
from harness.trainers.functional import clipped_value_loss, generalised_advantage, rewards_by_token
from harness.trainers.kl import kl_estimate

TRL_EPS = {"advantage": {"id": "group", "eps": 1e-4}}

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "verl_grpo_token_mean": ("grpo", {"kl_beta": 0.0, "reduction": "token_mean", "dual_clip": 3.0}),
    "verl_grpo_sequence_mean": ("grpo", {"kl_beta": 0.0, "reduction": "sequence_mean", "dual_clip": 3.0}),
    "verl_dual_clip": ("grpo", {"kl_beta": 0.0, "reduction": "token_mean", "dual_clip": 1.2}),
    "verl_dr_grpo": (
        "grpo",
        {
            "kl_beta": 0.0,
            "reduction": "sequence_sum",
            "length_constant": 9,
            "advantage": "mean",
            "dual_clip": 3.0,
        },
    ),
    "verl_dapo": ("grpo", {"kl_beta": 0.0, "reduction": "token_mean", "clip_high": 0.28, "dual_clip": 3.0}),
    "verl_reinforce_pp": ("reinforce_pp", {"gamma": 0.9, "dual_clip": 3.0}),
    "verl_reinforce_pp_baseline": ("reinforce_pp", {"baseline": "group_mean", "dual_clip": 3.0}),
    "verl_rloo": ("rloo", {"surrogate": "clipped", "reduction": "token_mean", "dual_clip": 3.0}),
    "verl_remax": ("remax", {"surrogate": "clipped", "reduction": "token_mean", "dual_clip": 3.0}),
    "verl_ppo_policy": ("ppo", {"gamma": 0.9, "lam": 0.8, "dual_clip": 3.0}),
    "verl_gspo": ("gspo", {"clip_low": 0.1, "clip_high": 0.2}),
    "verl_gmpo": ("gmpo", {"clip_low": 0.3, "clip_high": 0.3}),
    "verl_cispo": ("cispo", {"clip_low": 10.0, "clip_high": 0.2}),
    "trl_grpo": ("grpo", {"kl_beta": 0.04, **TRL_EPS}),
    "trl_bnpo": ("grpo", {"kl_beta": 0.0, "reduction": "token_mean", **TRL_EPS}),
    "trl_dr_grpo": (
        "grpo",
        {"kl_beta": 0.0, "reduction": "sequence_sum", "length_constant": 9, "advantage": "mean"},
    ),
    "trl_dapo": ("grpo", {"kl_beta": 0.0, "reduction": "token_mean", "clip_high": 0.28, **TRL_EPS}),
    "trl_gspo": ("gspo", {"clip_low": 0.1, "clip_high": 0.2, **TRL_EPS}),
    "trl_cispo": ("cispo", {"clip_high": 0.3, **TRL_EPS}),
    "trl_gmpo": ("gmpo", {"clip_low": 0.3, "clip_high": 0.3, **TRL_EPS}),
}
OF_GRADIENTS = {"trl_rloo_first_update"}
"""Its loss is a ratio times an advantage, ours a log-probability times it."""
OF_THE_LOOP = {"verl_grpo_truncated_is", "trl_weighted_kl"}
"""Tested where the loop's settings are."""
OF_FUNCTIONS = {"verl_value_loss", *(f"verl_kl_{name}" for name in ("k1", "k2", "k3", "k1+", "k3+"))}


def assert_golden(name: str, loss: torch.Tensor, argument: torch.Tensor) -> None:
    (gradient,) = torch.autograd.grad(loss, argument)
    # sums in another order, and an epsilon of 1e-8 in some of their means
    assert float(loss.detach()) == pytest.approx(CASES[name]["loss"], rel=1e-7)
    expected = torch.tensor(CASES[name]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", OURS)
def test_loss_and_gradient_equal_the_published_code(name: str) -> None:
    objective_id, options = OURS[name]
    objective = parse_plugin("objectives", {"id": objective_id, **options}).build()
    objective.prepare(ModelShape(hidden_size=1, device="cpu"), seed=0)
    batch, (current, old) = golden_batch(), golden_outputs()
    if objective_id == "ppo":
        pass_values_through(objective)
    loss = objective.loss(batch, current, old, objective.advantages(batch, old)).loss
    if objective_id == "ppo":  # their critic has a loss of its own
        loss = loss - CASES["verl_value_loss"]["loss"]
    assert_golden(name, loss, current.logp)


def pass_values_through(ppo: Any) -> None:
    """The hidden state of size 1 becomes the value itself."""
    ppo.head = torch.nn.Linear(1, 1).double()
    torch.nn.init.ones_(ppo.head.weight)
    torch.nn.init.zeros_(ppo.head.bias)


def test_first_update_of_rloo_equals_trls() -> None:
    """From the second on it clips the ratio of a whole completion, and we that of a token, as verl."""
    rloo = load("objectives", "rloo")
    objective, batch, (current, old) = rloo(rloo.Config()), golden_batch(), golden_outputs()
    loss = objective.loss(batch, current, old, objective.advantages(batch, old)).loss
    (gradient,) = torch.autograd.grad(loss, current.logp)
    theirs = torch.tensor(CASES["trl_rloo_first_update"]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, theirs, rtol=1e-9, atol=1e-12)


def test_value_loss_equals_verl() -> None:
    batch, values, old_row = golden_batch(), tensor("values").requires_grad_(), tensor("values_old")
    mask = batch.completion_mask
    returns = generalised_advantage(rewards_by_token(batch), old_row, mask, 0.9, 0.8) + old_row
    loss = (clipped_value_loss(values, old_row, returns, 0.5) * mask).sum() / mask.sum()
    assert_golden("verl_value_loss", loss, values)


@pytest.mark.parametrize("theirs", ["k1", "k2", "k3", "k1+", "k3+"])
def test_kl_estimates_equal_the_published_code(theirs: Any) -> None:
    logp, mask = tensor("logp").requires_grad_(), golden_batch().completion_mask
    kl = kl_estimate(logp, tensor("logp_reference"), theirs.replace("+", "_plus"))
    assert_golden(f"verl_kl_{theirs}", (kl * mask).sum() / mask.sum(), logp)


def test_every_golden_case_is_used_and_distinguishes_methods() -> None:
    assert set(OURS) | OF_FUNCTIONS | OF_GRADIENTS | OF_THE_LOOP == set(CASES)
    verl = [CASES[name]["loss"] for name in OURS if name.startswith("verl")]
    assert len(set(verl)) == len(verl)


def test_a_value_clip_of_zero_is_off() -> None:
    values, old_row, returns = tensor("values"), tensor("values_old"), tensor("logp")
    torch.testing.assert_close(clipped_value_loss(values, old_row, returns, 0.0), (values - returns).square() / 2)
