"""Every objective, whatever its file: invariances that a loss of this house keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from training_parts import detached, make_batch, make_outputs

from harness.core.discovery import entries, load
from harness.core.protocols import Batch, ModelShape, PolicyOutputs, Totals
from harness.trainers.batch import microbatch, microbatches, minibatches, select

OBJECTIVES = sorted(entries("objectives"))
LENGTHS, PROMPTS, GROUPS = [3, 5, 1, 4, 2, 5], [4, 4, 4, 2, 2, 2], [0, 0, 0, 1, 1, 1]
REWARDS = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]


def build(objective_id: str) -> Any:
    plugin = load("objectives", objective_id)
    objective = plugin(plugin.Config())
    objective.prepare(ModelShape(hidden_size=8, device="cpu"), seed=0)
    for group in objective.parameters():
        for parameter in group.parameters:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)).double() * 0.3
    return objective


def gradient(objective: Any, batch: Batch, live: PolicyOutputs, frozen: PolicyOutputs, pieces: Any) -> torch.Tensor:
    credit = objective.credit(batch, frozen)
    live.logp.grad = None
    for rows in pieces:
        part = microbatch(batch, rows, batch.totals)
        objective.loss(part, select(live, rows), select(frozen, rows), select(credit, rows)).loss.backward()
    assert live.logp.grad is not None
    return live.logp.grad.clone()


def everything(batch: Batch) -> list[torch.Tensor]:
    return [torch.arange(len(batch.rewards))]


@pytest.mark.parametrize("objective_id", OBJECTIVES)
def test_gradient_is_the_same_however_the_minibatch_is_cut(objective_id: str) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    live, frozen = make_outputs(batch), detached(make_outputs(batch, seed=2))
    whole = gradient(build(objective_id), batch, live, frozen, everything(batch))
    for max_tokens in (1, 12, 20):
        pieces = list(microbatches(batch, torch.arange(6), max_tokens))
        assert len(pieces) > 1
        cut = gradient(build(objective_id), batch, live, frozen, pieces)
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective_id", OBJECTIVES)
def test_padding_gets_no_gradient_and_its_values_do_not_matter(objective_id: str) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    live, frozen = make_outputs(batch), detached(make_outputs(batch, seed=2))
    clean = gradient(build(objective_id), batch, live, frozen, everything(batch))
    assert (clean[~batch.completion_mask] == 0).all()
    junk = torch.where(batch.completion_mask, live.logp.detach(), -3.0).requires_grad_()
    dirty = gradient(build(objective_id), batch, dataclasses.replace(live, logp=junk), frozen, everything(batch))
    torch.testing.assert_close(dirty, clean, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective_id", OBJECTIVES)
def test_order_of_completions_does_not_matter(objective_id: str) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    live, frozen = make_outputs(batch), detached(make_outputs(batch, seed=2))
    straight = gradient(build(objective_id), batch, live, frozen, everything(batch))
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    shuffled_live = dataclasses.replace(select(detached(live), order), logp=live.logp.detach()[order].requires_grad_())
    shuffled = gradient(
        build(objective_id), select(batch, order), shuffled_live, select(frozen, order), everything(batch)
    )
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective_id", OBJECTIVES)
def test_one_step_raises_what_was_rewarded_above_what_was_not(objective_id: str) -> None:
    batch = make_batch([2, 2], [3, 3], [0, 0], [1.0, 0.0])
    live = make_outputs(batch)
    frozen = detached(live)
    step = -gradient(build(objective_id), batch, live, frozen, everything(batch))
    if load("objectives", objective_id).source == "policy":
        assert step[0].sum() > step[1].sum()
    else:
        assert (step > 0).all()


@pytest.mark.parametrize("objective_id", OBJECTIVES)
def test_reads_nothing_it_did_not_declare(objective_id: str) -> None:
    batch = make_batch(PROMPTS, LENGTHS, GROUPS, REWARDS)
    objective = build(objective_id)
    live, frozen = make_outputs(batch), detached(make_outputs(batch, seed=2))
    whole = gradient(objective, batch, live, frozen, everything(batch))
    bare = gradient(objective, batch, only(live, objective.needs), only(frozen, objective.needs), everything(batch))
    torch.testing.assert_close(bare, whole)


@pytest.mark.parametrize("objective_id", OBJECTIVES)
def test_state_survives_a_round_trip(objective_id: str) -> None:
    one, other = build(objective_id), build(objective_id)
    for group in other.parameters():
        for parameter in group.parameters:
            parameter.data += 1
    other.load_state_dict(one.state_dict())
    pairs = zip(
        [p for g in one.parameters() for p in g.parameters],
        [p for g in other.parameters() for p in g.parameters],
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_minibatches_keep_groups_whole_and_lose_nobody() -> None:
    batch = make_batch([3] * 8, [1, 2, 3, 4, 5, 6, 7, 8], [9, 4, 9, 4, 7, 7, 1, 1])
    pieces = list(minibatches(batch, 3))
    assert sorted(int(row) for rows, _ in pieces for row in rows) == list(range(8))
    groups = [{int(batch.group_ids[row]) for row in rows} for rows, _ in pieces]
    assert sum(map(len, groups)) == 4, "a group is in one minibatch only"
    for rows, totals in pieces:
        assert totals == Totals(len(rows), int(batch.completion_lengths[rows].sum()))


def only(outputs: PolicyOutputs, needs: Any) -> PolicyOutputs:
    return dataclasses.replace(
        outputs,
        logp_reference=outputs.logp_reference if "reference_logp" in needs else None,
        entropy=outputs.entropy if "entropy" in needs else None,
        prompt_hidden=outputs.prompt_hidden if "prompt_hidden" in needs else None,
        completion_hidden=outputs.completion_hidden if "completion_hidden" in needs else None,
    )
