"""Every objective on a bandit of four arms, and the balancing ones against the distribution they should end at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from harness.core.registry import entries, load
from harness.core.tensors import Batch, ModelShape, PolicyOutputs, Totals

N_ARMS, N_DRAWS = 4, 32
REWARDS = torch.tensor([1.0, 0.0, 0.5, 0.0])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of four numbers are only slowed down by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outputs(logits: torch.Tensor, arms: torch.Tensor) -> PolicyOutputs:
    states = torch.ones(len(arms), N_ARMS)
    return PolicyOutputs(
        logp=logits.log_softmax(0)[arms, None],
        logp_reference=torch.zeros(N_ARMS).log_softmax(0)[arms, None],
        prompt_hidden=states,
        prompt_last_hidden=states,
        completion_hidden=states[:, None],
    )


def make_batch(arms: torch.Tensor, greedy_arm: int) -> Batch:
    ones = torch.ones(len(arms), dtype=torch.long)
    return Batch(
        sequence_ids=torch.stack([ones, arms], 1),
        prompt_lengths=ones,
        completion_lengths=ones,
        completion_mask=ones[:, None].bool(),
        logp_behaviour=None,
        rewards=REWARDS[arms],
        group_ids=torch.zeros_like(arms),
        totals=Totals(len(arms), len(arms)),
        greedy_rewards=REWARDS[greedy_arm].expand(len(arms)),
    )


def trained(objective_id: str, n_steps: int, lr: float = 0.05, **options: Any) -> torch.Tensor:
    """The arms' probabilities after `n_steps` of two updates each, from equal ones."""
    plugin = load("objectives", objective_id)
    objective = plugin(plugin.Config(**options))
    objective.prepare(ModelShape(N_ARMS, "cpu"), seed=0)
    torch.manual_seed(0)
    logits = torch.zeros(N_ARMS, requires_grad=True)
    own = [{"params": list(g.parameters), "lr": g.lr if g.lr is not None else lr} for g in objective.parameters()]
    optimizer = torch.optim.Adam([{"params": [logits], "lr": lr}, *own])
    for _ in range(n_steps):
        drawn = torch.multinomial(logits.detach().softmax(0), N_DRAWS, replacement=True)
        arms = drawn if objective.source == "policy" else torch.zeros(N_DRAWS, dtype=torch.long)
        batch = make_batch(arms, int(logits.argmax()))
        with torch.no_grad():
            old = outputs(logits, arms)
        advantages = objective.advantages(batch, old)
        for _ in range(2):
            optimizer.zero_grad()
            objective.loss(batch, outputs(logits, arms), old, advantages).loss.backward()
            optimizer.step()
    return logits.detach().softmax(0)


@pytest.mark.parametrize("objective_id", sorted(entries("objectives")))
def test_every_objective_learns_the_best_arm(objective_id: str) -> None:
    probabilities = trained(objective_id, n_steps=40)
    assert float(probabilities[0]) > 0.5  # 0.25 at first
    assert int(probabilities.argmax()) == 0


@pytest.mark.parametrize(
    ("objective_id", "options"),
    [
        ("tb", {"log_z_lr": 0.05, "log_z_layers": 1}),
        ("tb", {"log_z": "scalar", "log_z_lr": 0.05}),
        ("vargrad_tb", {}),
        ("kimi", {"tau": 1 / 1.5, "anchor": "reference"}),
        ("flowrl_ablation", {"group_statistics": "none", "log_z_lr": 0.05, "log_z_layers": 1}),
        ("flowrl_ablation", {"log_z": "group_mean", "group_statistics": "none"}),
    ],
)
def test_balance_objectives_converge_to_the_tilted_distribution(objective_id: str, options: dict[str, Any]) -> None:
    """Prior times exp(beta r) over Z: the best arm is not all there is."""
    if objective_id != "kimi":
        options = {"beta": 1.5, **options}
    expected = (1.5 * REWARDS).softmax(0)  # 0.49, 0.11, 0.28, 0.11
    # a mean square of zero in the end, but for a group's estimate of log Z from 32 draws
    torch.testing.assert_close(trained(objective_id, 120, lr=0.04, **options), expected, atol=0.03, rtol=0)
