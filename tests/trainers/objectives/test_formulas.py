"""Every objective, in value and gradient, against its formula written out in `support/formulas.py`."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import formulas
import pytest
import torch
from formulas import Loss, Row
from training_parts import detached, make_batch, make_outputs

from harness.core.config import parse_plugin
from harness.core.registry import entries
from harness.core.tensors import Batch, LossResult, ModelShape, PolicyOutputs
from harness.trainers.functional import rewards_by_token
from harness.trainers.objectives.flowrl import FlowRL

LENGTHS = [3, 5, 1, 4, 2, 5, 2, 2]


def the_batch() -> Batch:
    """Three groups, the last of equal rewards; double precision; some reward given at single tokens."""
    batch = make_batch([4, 4, 4, 2, 2, 2, 3, 3], LENGTHS, [0, 0, 0, 1, 1, 1, 2, 2], [1, 0, 1, 0.5, 0, 1, 1, 1])
    given = torch.linspace(-0.3, 0.2, 8 * 5, dtype=torch.float64).view(8, 5) * batch.completion_mask
    assert batch.greedy_rewards is not None
    return dataclasses.replace(
        batch,
        rewards=batch.rewards.double(),
        token_rewards=given,
        greedy_rewards=batch.greedy_rewards.double(),
    )


BATCH = the_batch()


def clipped(log_ratio: float, _: int) -> float:
    return formulas.clip(math.exp(log_ratio), 0.8, 1.2)


CASES: list[tuple[str, dict[str, Any], Loss]] = [
    ("reinforce", {}, formulas.reinforce),
    ("reinforce", {"advantage": {"id": "baseline", "mean": "batch"}}, formulas.reinforce_batch_mean),
    ("rloo", {}, formulas.rloo),
    ("remax", {}, formulas.remax),
    ("reinforce_pp", {"gamma": 0.9}, formulas.reinforce_pp(0.9)),
    ("reinforce_pp", {"baseline": "group_mean"}, formulas.reinforce_pp_baseline),
    ("ppo", {}, formulas.ppo(1.0, 1.0)),
    ("ppo", {"gamma": 0.9, "lam": 0.7}, formulas.ppo(0.9, 0.7)),
    (
        "grpo",
        {"advantage": "mean", "reduction": "sequence_sum", "length_constant": 9, "kl_beta": 0.0},
        formulas.dr_grpo(9),
    ),
    ("grpo", {"clip_high": 0.28, "reduction": "token_mean", "kl_beta": 0.0}, formulas.dapo),
    ("grpo", {"dual_clip": 1.5, "kl_beta": 0.0}, formulas.dual_clipped),
    ("gspo", {}, formulas.gspo(3e-4, 4e-4)),
    ("gspo", {"clip_low": 0.3, "clip_high": 0.5}, formulas.gspo(0.3, 0.5)),
    ("gmpo", {}, formulas.gmpo),
    ("cispo", {}, formulas.cispo),
    ("cispo", {"reduction": "prompt_mean"}, formulas.cispo_as_printed),
    ("grpo", {"clip_high": 0.28, "reduction": "prompt_mean", "kl_beta": 0.0}, formulas.dapo_as_printed),
    ("trpo", {"coefficient": 0.7}, formulas.trpo(0.7)),
    ("sapo", {}, formulas.sapo),
    ("dppo", {"divergence_low": 0.1, "divergence_high": 0.05, "ratio_cap": 1.5}, formulas.dppo(0.1, 0.05, 1.5)),
    ("clip_cov", {"share": 1.0, "cov_low": 0.1, "cov_high": 0.9}, formulas.clip_cov(0.1, 0.9)),
    ("kl_cov", {"share": 0.3, "coefficient": 0.7}, formulas.kl_cov(7, 0.7)),
    ("kimi", {"tau": 0.3}, formulas.kimi(0.3, "old")),
    ("kimi", {"tau": 0.3, "anchor": "reference"}, formulas.kimi(0.3, "reference")),
    ("tb", {"beta": 2.0}, formulas.tb(2.0, prior=True)),
    ("tb", {"beta": 2.0, "prior": "none", "log_z": "scalar", "log_z_start": 5.0}, formulas.tb(2.0, prior=False)),
    ("vargrad_tb", {"beta": 2.0}, formulas.vargrad_tb(2.0, prior=True)),
    ("vargrad_tb", {"beta": 2.0, "prior": "none"}, formulas.vargrad_tb(2.0, prior=False)),
    ("gflowrl", {"beta": 0.8, "gap_low": 0.6, "gap_high": 0.4}, formulas.gflowrl(0.8, 0.6, 0.4, 2.0)),
    *(
        (
            "gflowrl",
            {"beta": 0.8, "gap_low": 1.6, "gap_high": 1.4, "reading": reading},
            formulas.gflowrl(0.8, 1.6, 1.4, 2.0, reading=reading),
        )
        for reading in ("printed", "none")
    ),
    ("flowrl", {"beta": 0.7}, formulas.flowrl(0.7, weight=clipped)),
    ("flowrl_ablation", {"beta": 0.7, "log_z": "group_mean"}, formulas.flowrl(0.7, weight=clipped, log_z="group_mean")),
    ("flowrl_ablation", {"beta": 0.7, "log_z": "none"}, formulas.flowrl(0.7, weight=clipped)),
    (
        "flowrl_ablation",
        {"beta": 0.7, "log_z": "constant", "log_z_constant": 1.5},
        formulas.flowrl(0.7, weight=clipped),
    ),
    (
        "flowrl_release",
        {"beta": 0.7, "log_z_dropout": 0.0},
        # of 8 completions in one micro-batch: 9 / 8 of the mean
        lambda now, held: 9 / 8 * formulas.flowrl(0.7, weight=lambda log_ratio, _: math.exp(log_ratio))(now, held),
    ),
    (
        "flowrl_recipe",
        {"beta": 0.7, "cap": 1.5, "log_z_dropout": 0.0},
        formulas.flowrl(0.7, weight=lambda log_ratio, _: min(math.exp(log_ratio), 1.5)),
    ),
    (
        "flowrl_ablation",
        {"beta": 0.7, "importance_weight_over": "mean", "normalise_by_length": False, "anchor": "old"},
        formulas.flowrl(0.7, weight=lambda total, n: clipped(total / n, n), by_length=False, anchor="old"),
    ),
    (
        "flowrl_ablation",
        {"beta": 0.7, "importance_weight": "none", "anchor": "none", "group_statistics": "mean"},
        formulas.flowrl(0.7, weight=lambda *_: 1.0, anchor="none", statistic="mean"),
    ),
    (
        "flowrl_ablation",
        {"beta": 0.7, "importance_weight": "unclipped", "group_statistics": "none", "log_z_pooling": "last"},
        formulas.flowrl(0.7, weight=lambda log_ratio, _: math.exp(log_ratio), statistic="none"),
    ),
]
IDS = ["-".join([case[0], *map(str, case[1].values())]) for case in CASES]
ELSEWHERE = {"sft"}
"""Has its formula in test_objectives.py."""


def test_every_objective_has_its_formula_here() -> None:
    assert {case[0] for case in CASES} | ELSEWHERE == set(entries("objectives"))


@pytest.mark.parametrize(("objective_id", "options", "formula"), CASES, ids=IDS)
def test_objective_value_and_gradient_equal_the_formula(
    objective_id: str, options: dict[str, Any], formula: Loss
) -> None:
    objective = built(objective_id, options)
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    result = evaluated(objective, current, old)
    rows = rows_of(objective, current, old)
    assert float(result.loss.detach()) == pytest.approx(formula(rows, rows), rel=1e-9)
    result.loss.backward()
    assert current.logp.grad is not None
    for i, row in enumerate(rows):
        for t in range(len(row.new)):
            # central differences: error of order step^2, here below 1e-7 of the larger gradients
            quotient = difference_quotient(formula, rows, i, t)
            assert float(current.logp.grad[i, t]) == pytest.approx(quotient, rel=1e-5, abs=1e-7)


def difference_quotient(formula: Loss, rows: list[Row], i: int, t: int, step: float = 1e-5) -> float:
    values = []
    for sign in (1, -1):
        now = copy.deepcopy(rows)
        now[i].new[t] += sign * step
        values.append(formula(now, rows))
    return (values[0] - values[1]) / (2 * step)


def evaluated(objective: Any, current: PolicyOutputs, old: PolicyOutputs, batch: Batch = BATCH) -> LossResult:
    result: LossResult = objective.loss(batch, current, old, objective.advantages(batch, old))
    return result


def built(objective_id: str, options: dict[str, Any]) -> Any:
    """With random weights in its own parameters, in double precision."""
    objective = parse_plugin("objectives", {"id": objective_id, **options}).build()
    objective.prepare(ModelShape(hidden_size=8, device="cpu"), seed=0)
    for group in objective.parameters():
        for parameter in group.parameters:
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
            parameter.data = (drawn if parameter.dim() > 0 else parameter.data).double()
    return objective


def rows_of(objective: Any, current: PolicyOutputs, old: PolicyOutputs) -> list[Row]:
    """The batch as plain floats; what a head says of a prompt or a state is taken as given."""
    assert old.logp_reference is not None
    assert BATCH.greedy_rewards is not None
    rows = [
        Row(
            current.logp[i, :n].tolist(),
            old.logp[i, :n].tolist(),
            old.logp_reference[i, :n].tolist(),
            float(BATCH.rewards[i]),
            int(BATCH.group_ids[i]),
            greedy=float(BATCH.greedy_rewards[i]),
            token_rewards=rewards_by_token(BATCH)[i, :n].tolist(),
        )
        for i, n in enumerate(LENGTHS)
    ]
    if "completion_hidden" in objective.needs:
        for i, row in enumerate(rows):
            row.values = objective.values(current)[i, : len(row.new)].tolist()
            row.old_values = objective.values(old)[i, : len(row.new)].tolist()
    log_z = log_z_of(objective, current, old)
    for row, value in zip(rows, log_z, strict=True):
        row.log_z = value
    return rows


def log_z_of(objective: Any, current: PolicyOutputs, old: PolicyOutputs) -> list[float]:
    config = objective.config
    log_z = getattr(config, "log_z", "learned")
    if not hasattr(objective, "log_z") or log_z in ("none", "group_mean"):
        return [0.0] * len(LENGTHS)
    if log_z == "constant":
        return [config.log_z_constant] * len(LENGTHS)
    advantages = (objective.advantages(BATCH, old),) if isinstance(objective, FlowRL) else ()
    values: list[float] = objective.log_z(BATCH, current, *advantages).tolist()
    return values


# --- rewards in time --------------------------------------------------------------------------------------------


def test_rewards_by_token_add_up_and_leave_the_outcome_at_the_end() -> None:
    by_token = rewards_by_token(BATCH)
    torch.testing.assert_close(by_token.sum(1), BATCH.rewards)
    assert BATCH.token_rewards is not None
    for row, n in enumerate(LENGTHS):
        assert by_token[row, : n - 1].tolist() == BATCH.token_rewards[row, : n - 1].tolist()
        assert (by_token[row, n:] == 0).all()
    plain = rewards_by_token(dataclasses.replace(BATCH, token_rewards=None))
    assert [float(plain[row, n - 1]) for row, n in enumerate(LENGTHS)] == BATCH.rewards.tolist()
    assert int((plain != 0).sum()) == int((BATCH.rewards != 0).sum())
