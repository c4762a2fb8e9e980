"""Invariances that every objective keeps."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from training_parts import detached, make_batch, make_outputs

from harness.core.config import parse_plugin
from harness.core.registry import entries, load
from harness.core.tensors import Batch, ModelShape, PolicyOutputs, Totals
from harness.trainers.batch import microbatch, microbatches, minibatches, select

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "step-metrics.md").read_text(encoding="utf-8")
WITH_DROPOUT = ("flowrl_release", "flowrl_recipe")
DEFAULTS = [(key, {"log_z_dropout": 0.0} if key in WITH_DROPOUT else {}) for key in sorted(entries("objectives"))]
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("grpo", {"reduction": "sequence_sum", "length_constant": 7, "advantage": "mean", "dual_clip": 3.0}),
    ("grpo", {"reduction": "token_mean", "kl_beta": 0.0}),
    ("reinforce", {"advantage": {"id": "baseline", "mean": "batch"}, "surrogate": "clipped"}),
    ("reinforce", {"advantage": {"id": "baseline", "mean": "none"}, "reduction": "token_mean"}),
    ("reinforce_pp", {"baseline": "group_mean"}),
    ("grpo", {"reduction": "prompt_mean", "kl_beta": 0.1}),
    ("ppo", {"gamma": 0.9, "lam": 0.8, "value_clip": 0.0, "value_detach": False, "whiten": False}),
    ("kimi", {"anchor": "reference"}),
    ("gflowrl", {"reading": "printed"}),
    ("gflowrl", {"reading": "none", "normalise_by_std": False}),
    ("tb", {"log_z": "scalar", "prior": "none", "log_z_start": 5.0}),
    ("vargrad_tb", {"prior": "none"}),
    *(("flowrl_ablation", {"log_z": log_z}) for log_z in ("none", "group_mean", "random", "constant")),
    ("flowrl_ablation", {"anchor": "old", "importance_weight_over": "mean", "log_z_pooling": "last", "log_z_width": 3}),
    ("flowrl_ablation", {"anchor": "none", "group_statistics": "none", "normalise_by_length": False}),
]
CASES = [pytest.param(*case, id="-".join([case[0], *map(str, case[1].values())])) for case in [*DEFAULTS, *SETTINGS]]
every_objective = pytest.mark.parametrize(("objective_id", "options"), CASES)
LENGTHS, PROMPTS, GROUPS = [3, 5, 1, 4, 2, 5], [4, 4, 4, 2, 2, 2], [0, 0, 0, 1, 1, 1]
REWARDS = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]


def build(objective_id: str, options: dict[str, Any]) -> Any:
    objective = parse_plugin("objectives", {"id": objective_id, **options}).build()
    objective.prepare(ModelShape(hidden_size=8, device="cpu"), seed=0)
    for group in objective.parameters():
        for parameter in group.parameters:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)).double() * 0.3
    return objective


def gradient(objective: Any, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, pieces: Any) -> torch.Tensor:
    torch.manual_seed(11)  # as the loop does before it computes advantages
    advantages = objective.advantages(batch, old)
    current.logp.grad = None
    for rows in pieces:
        part = microbatch(batch, rows, batch.totals)
        objective.loss(part, select(current, rows), select(old, rows), select(advantages, rows)).loss.backward()
    assert current.logp.grad is not None
    return current.logp.grad.clone()


def own_gradient(objective: Any) -> torch.Tensor:
    """Of all the objective's own parameters, in a row."""
    own = [p for group in objective.parameters() for p in group.parameters]
    return torch.cat([torch.zeros(1), *(p.grad.flatten() for p in own if p.grad is not None)])


def everything(batch: Batch) -> list[torch.Tensor]:
    return [torch.arange(len(batch.rewards))]


@pytest.mark.parametrize(
    ("objective_id", "options"), [case for case in CASES if case.values[0] != "flowrl_release"]
)  # the released code scales each micro-batch by itself
def test_objective_gradient_does_not_depend_on_micro_batches(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    current, old = make_outputs(batch), detached(make_outputs(batch, seed=2))
    uncut = build(objective_id, options)
    whole = gradient(uncut, batch, current, old, everything(batch))
    for max_tokens in (1, 12, 20):
        pieces = list(microbatches(batch, torch.arange(6), max_tokens))
        assert len(pieces) > 1
        objective = build(objective_id, options)
        cut = gradient(objective, batch, current, old, pieces)
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(own_gradient(objective), own_gradient(uncut), rtol=1e-9, atol=1e-12)


@every_objective
def test_every_metric_of_a_loss_is_documented(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    current, old, objective = make_outputs(batch), detached(make_outputs(batch, seed=2)), build(objective_id, options)
    figures = objective.loss(batch, current, old, objective.advantages(batch, old)).metrics
    assert figures.keys() <= set(re.findall(r"`(\w+)`", PAGE))


@every_objective
def test_objective_ignores_padding_in_value_and_gradient(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    current, old = make_outputs(batch), detached(make_outputs(batch, seed=2))
    clean = gradient(build(objective_id, options), batch, current, old, everything(batch))
    assert (clean[~batch.completion_mask] == 0).all()
    junk = torch.where(batch.completion_mask, current.logp.detach(), -3.0).requires_grad_()
    dirty = gradient(
        build(objective_id, options), batch, dataclasses.replace(current, logp=junk), old, everything(batch)
    )
    torch.testing.assert_close(dirty, clean, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("objective_id", "options"), [case for case in CASES if case.values[0] != "clip_cov"])
def test_objective_does_not_depend_on_the_order_of_completions(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    current, old = make_outputs(batch), detached(make_outputs(batch, seed=2))
    straight = gradient(build(objective_id, options), batch, current, old, everything(batch))  # clip_cov draws tokens
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    shuffled_live = dataclasses.replace(
        select(detached(current), order), logp=current.logp.detach()[order].requires_grad_()
    )
    shuffled = gradient(
        build(objective_id, options), select(batch, order), shuffled_live, select(old, order), everything(batch)
    )
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-9, atol=1e-12)


@every_objective
def test_objective_advantages_carry_no_gradient(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    advantages = build(objective_id, options).advantages(batch, detached(make_outputs(batch)))
    assert not any(tensor.requires_grad for tensor in (advantages.values, *advantages.extra.values()))


@every_objective
def test_objective_step_raises_rewarded_completions_above_others(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch([2, 2], [3, 3], [0, 0], [1.0, 0.0])
    current = make_outputs(batch)
    old = dataclasses.replace(detached(current), logp_reference=current.logp.detach())
    step = -gradient(build(objective_id, options), batch, current, old, everything(batch))
    if load("objectives", objective_id).source == "policy":
        assert step[0].sum() > step[1].sum()
    else:
        assert (step > 0).all()


@every_objective
def test_objective_reads_only_its_declared_needs(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    needs = build(objective_id, options).needs
    current, old = make_outputs(batch), detached(make_outputs(batch, seed=2))
    whole = gradient(build(objective_id, options), batch, current, old, everything(batch))
    without = batch if "greedy_reward" in needs else dataclasses.replace(batch, greedy_rewards=None)
    bare = gradient(build(objective_id, options), without, only(current, needs), only(old, needs), everything(batch))
    torch.testing.assert_close(bare, whole)


@every_objective
def test_objective_state_survives_a_round_trip(objective_id: str, options: dict[str, Any]) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    current, old = make_outputs(batch), detached(make_outputs(batch, seed=2))
    one, other = build(objective_id, options), build(objective_id, options)
    gradient(one, batch, current, old, everything(batch))  # what it remembers of steps before is state too
    for group in other.parameters():
        for parameter in group.parameters:
            parameter.data += 1
    stored = io.BytesIO()
    torch.save(dict(one.state_dict()), stored)
    stored.seek(0)
    other.load_state_dict(torch.load(stored, weights_only=True))
    second = [gradient(objective, batch, current, old, everything(batch)) for objective in (one, other)]
    assert torch.equal(*second)
    pairs = zip(
        [p for g in one.parameters() for p in g.parameters],
        [p for g in other.parameters() for p in g.parameters],
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_minibatches_keep_groups_whole_and_hold_every_row() -> None:
    batch = make_batch([3] * 8, [1, 2, 3, 4, 5, 6, 7, 8], [9, 4, 9, 4, 7, 7, 1, 1])
    pieces = list(minibatches(batch, 3, torch.ones(8, dtype=torch.bool)))
    assert sorted(int(row) for rows, _ in pieces for row in rows) == list(range(8))
    groups = [{int(batch.group_ids[row]) for row in rows} for rows, _ in pieces]
    assert sum(map(len, groups)) == 4, "a group is in one minibatch only"
    for rows, totals in pieces:
        assert totals == Totals(len(rows), int(batch.completion_lengths[rows].sum()))
        tokens = {g: int(batch.completion_lengths[batch.group_ids == g].sum()) for g in batch.group_ids[rows].tolist()}
        assert totals.tokens_by_prompt is not None
        assert {g: int(n) for g, n in enumerate(totals.tokens_by_prompt) if n > 0} == tokens


def test_minibatches_leave_out_untrained_rows_and_their_counts() -> None:
    batch = make_batch([3] * 4, [1, 2, 3, 4], [0, 0, 1, 1])
    pieces = list(minibatches(batch, 2, torch.tensor([True, False, False, False])))
    assert [(rows.tolist(), totals) for rows, totals in pieces] == [([0], Totals(1, 1))]


def only(outputs: PolicyOutputs, needs: Any) -> PolicyOutputs:
    return dataclasses.replace(
        outputs,
        logp_reference=outputs.logp_reference if "reference_logp" in needs else None,
        entropy=outputs.entropy if "entropy" in needs else None,
        prompt_hidden=outputs.prompt_hidden if "prompt_hidden" in needs else None,
        prompt_last_hidden=outputs.prompt_last_hidden if "prompt_last_hidden" in needs else None,
        completion_hidden=outputs.completion_hidden if "completion_hidden" in needs else None,
    )
