"""GRPO and FlowRL against their formulas, written out in plain Python loops over floats."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import pytest
import torch
from training_parts import detached, make_batch, make_outputs

from harness.core.tensors import Batch, ModelShape, PolicyOutputs
from harness.trainers.objectives.flowrl import FlowRL
from harness.trainers.objectives.flowrl_ablation import FlowRLAblation
from harness.trainers.objectives.flowrl_recipe import FlowRLRecipe
from harness.trainers.objectives.flowrl_release import FlowRLRelease
from harness.trainers.objectives.grpo import Grpo
from harness.trainers.objectives.sft import SupervisedFineTuning

BATCH = make_batch(
    [4, 4, 4, 2, 2, 2, 3, 3], [3, 5, 1, 4, 2, 5, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2], [1, 0, 1, 0.5, 0, 1, 1, 1]
)


def loss_of(objective: Any, current: PolicyOutputs, old: PolicyOutputs, batch: Batch = BATCH) -> torch.Tensor:
    return objective.loss(batch, current, old, objective.advantages(batch, old)).loss


def loss_value(objective: Any, current: PolicyOutputs, old: PolicyOutputs) -> float:
    return float(loss_of(objective, current, old).detach())


def rows_of(tensor: torch.Tensor, batch: Batch = BATCH) -> list[list[float]]:
    """Real tokens only, as floats."""
    return [row[: int(n)].tolist() for row, n in zip(tensor.detach(), batch.completion_lengths, strict=True)]


def z_scores(batch: Batch = BATCH) -> list[float]:
    scores = []
    for reward, group in zip(batch.rewards.tolist(), batch.group_ids.tolist(), strict=True):
        peers = [r for r, g in zip(batch.rewards.tolist(), batch.group_ids.tolist(), strict=True) if g == group]
        scores.append((reward - statistics.mean(peers)) / (statistics.stdev(peers) + 1e-6))
    return scores


@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean"])
@pytest.mark.parametrize("kl_beta", [0.0, 0.04])
def test_grpo_is_its_formula(reduction: Any, kl_beta: float) -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    per_sequence = []
    assert old.logp_reference is not None
    for new, before, ref, advantage in zip(
        rows_of(current.logp), rows_of(old.logp), rows_of(old.logp_reference), z_scores(), strict=True
    ):
        tokens = []
        for n, o, r in zip(new, before, ref, strict=True):
            ratio = math.exp(n - o)
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
            tokens.append(-(surrogate - kl_beta * (math.exp(r - n) - (r - n) - 1)))
        per_sequence.append(tokens)
    if reduction == "token_mean":
        expected = sum(map(sum, per_sequence)) / sum(map(len, per_sequence))
    else:
        expected = statistics.mean(statistics.mean(tokens) for tokens in per_sequence)
    config = Grpo.Config(clip_high=0.28, kl_beta=kl_beta, reduction=reduction)
    assert loss_value(Grpo(config), current, old) == pytest.approx(expected, rel=1e-6)  # rewards are float32


@pytest.mark.parametrize("weight", ["clipped", "capped", "unclipped", "none"])
@pytest.mark.parametrize("by_length", [True, False])
def test_flowrl_is_its_formula(weight: Any, by_length: bool) -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    cap = {"cap": 1.5} if weight == "capped" else {}
    objective = prepared(
        FlowRLAblation(FlowRLAblation.Config(beta=0.7, importance_weight=weight, normalise_by_length=by_length, **cap))
    )
    log_z = objective.log_z(BATCH, current, objective.advantages(BATCH, old)).tolist()
    assert old.logp_reference is not None
    terms = []
    for new, before, ref, score, z in zip(
        rows_of(current.logp), rows_of(old.logp), rows_of(old.logp_reference), z_scores(), log_z, strict=True
    ):
        length = len(new) if by_length else 1
        residual = z + sum(new) / length - 0.7 * score - sum(ref) / length
        ratio = math.exp(sum(new) - sum(before))
        w = {"clipped": min(max(ratio, 0.8), 1.2), "capped": min(ratio, 1.5), "unclipped": ratio, "none": 1.0}[weight]
        terms.append(w * residual**2)
    assert loss_value(objective, current, old) == pytest.approx(statistics.mean(terms), rel=1e-5)  # log Z: float32


def test_flowrl_weight_carries_no_gradient() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    objective = prepared(FlowRLAblation(FlowRLAblation.Config(beta=0.7, importance_weight="unclipped")))
    loss_of(objective, current, old).backward()
    assert current.logp.grad is not None
    with torch.no_grad():
        assert old.logp_reference is not None
        for row, n in enumerate(BATCH.completion_lengths.tolist()):
            ratio = (current.logp - old.logp)[row].sum().exp()
            z = objective.log_z(BATCH, current, objective.advantages(BATCH, old))[row]
            residual = z + (current.logp - old.logp_reference)[row, :n].mean() - 0.7 * z_scores()[row]
            # d/dlogp_t of w * residual^2 / B with w held: 2 w residual / (|y| B)
            expected = 2 * ratio * residual / (n * 8)
            torch.testing.assert_close(current.logp.grad[row, :n], expected.double().expand(n), rtol=1e-5, atol=1e-9)


def test_flowrl_is_zero_exactly_where_the_flow_balances() -> None:
    """Two leaves of an enumerable tree with policy = reference * exp(beta r_hat) / Z, unnormalised by length."""
    batch = make_batch([2, 2], [1, 1], [0, 0], [1.0, 0.0])
    reference = torch.tensor([[math.log(0.3)], [math.log(0.7)]], dtype=torch.float64)
    tilted = reference + torch.tensor(z_scores(batch), dtype=torch.float64)[:, None]
    balanced = (tilted - tilted.logsumexp(0)).requires_grad_()
    current = dataclasses.replace(make_outputs(batch), logp=balanced)
    old = PolicyOutputs(logp=balanced.detach(), logp_reference=reference)
    objective = prepared(FlowRL(FlowRL.Config(beta=1.0)))
    with torch.no_grad():
        for parameter in objective.head.parameters():
            parameter.zero_()
        list(objective.head.parameters())[-1].fill_(float(tilted.logsumexp(0)))
    loss = loss_of(objective, current, old, batch)
    loss.backward()
    assert float(loss.detach()) < 1e-12
    assert balanced.grad is not None
    assert balanced.grad.abs().max() < 1e-6


def test_flowrl_equal_rewards_pull_to_the_reference() -> None:
    batch = make_batch([2, 2], [3, 3], [0, 0], [1.0, 1.0])
    current, old = make_outputs(batch), detached(make_outputs(batch, seed=2))
    objective = prepared(FlowRL(FlowRL.Config()), head_scale=0.0)
    loss_of(objective, current, old, batch).backward()
    assert current.logp.grad is not None
    assert old.logp_reference is not None
    above = (current.logp.detach() - old.logp_reference).mean(1)
    assert (current.logp.grad.mean(1).sign() == above.sign()).all()


@pytest.mark.parametrize("detach", [True, False])
def test_flowrl_log_z_reaches_the_policy_only_when_asked(detach: bool) -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    assert current.prompt_hidden is not None
    current.prompt_hidden.requires_grad_()
    objective = prepared(FlowRLAblation(FlowRLAblation.Config(log_z_detach=detach)))
    loss_of(objective, current, old).backward()
    assert (current.prompt_hidden.grad is None) == detach
    assert all(p.grad is not None for p in objective.head.parameters())


def test_flowrl_log_z_is_zero_before_the_first_step_and_its_seed_is_its_own() -> None:
    state = torch.random.get_rng_state()
    one, two, other = FlowRL(FlowRL.Config()), FlowRL(FlowRL.Config()), FlowRL(FlowRL.Config())
    for objective, seed in ((one, 3), (two, 3), (other, 4)):
        objective.prepare(ModelShape(8, "cpu"), seed)
    assert torch.equal(state, torch.random.get_rng_state())
    outputs = make_outputs(BATCH)
    assert (one.log_z(BATCH, outputs, one.advantages(BATCH, detached(outputs))) == 0).all()
    first = [next(iter(o.head.parameters())) for o in (one, two, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_grpo_clip_stops_the_gradient_where_it_should() -> None:
    batch = make_batch([2] * 4, [1] * 4, [0, 0, 1, 1], [1, 0, 1, 0])
    old_row = torch.full((4, 1), -1.0, dtype=torch.float64)
    current = dataclasses.replace(
        make_outputs(batch), logp=(old_row + torch.tensor([[0.5], [-0.5], [-0.5], [0.5]])).requires_grad_()
    )
    result = Grpo(Grpo.Config(kl_beta=0.0))
    advantages = result.advantages(batch, current)
    outcome = result.loss(batch, current, PolicyOutputs(logp=old_row), advantages)
    outcome.loss.backward()
    assert current.logp.grad is not None
    # rewarded and already 1.65 times likelier; punished and already 0.6 times: nothing more to do
    assert current.logp.grad[:2].abs().max() == 0
    assert (current.logp.grad[2:] != 0).all()
    assert outcome.metrics["clip_fraction"] == (2.0, 4.0)


def test_sft_is_the_mean_negative_log_likelihood() -> None:
    current = make_outputs(BATCH)
    objective = SupervisedFineTuning(SupervisedFineTuning.Config())
    tokens = [value for row in rows_of(current.logp) for value in row]
    assert loss_value(objective, current, detached(current)) == pytest.approx(-statistics.mean(tokens), rel=1e-12)


def prepared(objective: FlowRL, head_scale: float = 0.3) -> FlowRL:
    objective.prepare(ModelShape(hidden_size=8, device="cpu"), seed=0)
    assert isinstance(objective.head, torch.nn.Sequential)
    with torch.no_grad():
        for parameter in objective.head[-1].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * head_scale)
    return objective


# --- FlowRL's siblings ------------------------------------------------------------------------------------------

RELEASED: dict[str, Any] = {
    "log_z_dropout": 0.1,
    "log_z_lr": "policy",
    "log_z_weight_decay": "policy",
    "log_z_clip": "policy",
    "log_z_pooling": "prompt_but_last",
    "log_z_detach": False,
    "log_z_from_zero": False,
}


@pytest.mark.parametrize(
    ("sibling", "choices"),
    [
        (FlowRL(FlowRL.Config()), {}),
        (
            FlowRLRelease(FlowRLRelease.Config()),
            {**RELEASED, "importance_weight": "unclipped", "loss_scale": "release"},
        ),
        (FlowRLRecipe(FlowRLRecipe.Config(cap=1.1)), {**RELEASED, "importance_weight": "capped", "cap": 1.1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_flowrl_siblings_are_the_paper_with_their_choices_applied_one_by_one(
    sibling: FlowRL, choices: dict[str, Any]
) -> None:
    found = []
    for objective in (sibling, FlowRLAblation(FlowRLAblation.Config(**choices))):
        objective.prepare(ModelShape(hidden_size=8, device="cpu"), seed=0)
        current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
        torch.manual_seed(4)  # of the dropout
        loss = loss_of(objective, current, old)
        loss.backward()
        groups = [(group.lr, group.weight_decay, group.own_clip) for group in objective.parameters()]
        found.append([float(loss.detach()), current.logp.grad, groups, *(p.grad for p in objective.head.parameters())])
    assert all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        for one, other in zip(*found, strict=True)
    )


@pytest.mark.parametrize(
    ("config", "options", "ignored"),
    [
        (FlowRLRelease.Config, {"clip_low": 0.3}, "clip_low and clip_high"),
        (FlowRLRecipe.Config, {"clip_high": 0.3}, "clip_low and clip_high"),
        (FlowRLAblation.Config, {"cap": 5.0}, "cap"),
        (FlowRLAblation.Config, {"importance_weight": "capped", "clip_high": 0.3}, "clip_high"),
        (FlowRLAblation.Config, {"log_z": "none", "log_z_layers": 5}, "log_z_layers"),
        (
            FlowRLAblation.Config,
            {"log_z": "group_mean", "log_z_lr": 0.1, "log_z_detach": False},
            "log_z_detach, log_z_lr",
        ),
        (FlowRLAblation.Config, {"log_z": "random", "log_z_constant": 1.0}, "log_z_constant"),
    ],
)
def test_options_of_flowrl_without_effect_are_refused(config: Any, options: dict[str, Any], ignored: str) -> None:
    with pytest.raises(ValueError, match=rf"does? not use .*{ignored}"):
        config(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"log_z": "constant", "log_z_constant": 0.1},
        {"importance_weight": "capped", "cap": 2.0},
        {"log_z": "learned", "log_z_layers": 5},
    ],
)
def test_options_of_flowrl_with_an_effect_pass(options: dict[str, Any]) -> None:
    FlowRLAblation.Config(**options)
