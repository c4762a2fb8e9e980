"""Diagnostics of a run: ratios, distinct answers, and warnings from series made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from training_parts import detached, make_batch, make_outputs

from harness.core.tensors import LossResult
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.trainers.config import WarningsConfig
from harness.trainers.objectives.flowrl_ablation import FlowRLAblation
from harness.trainers.objectives.gflowrl import GFlowRL
from harness.trainers.objectives.tb import TrajectoryBalance
from harness.trainers.objectives.vargrad_tb import VarGradTrajectoryBalance
from harness.trainers.step_metrics import Diagnostics, TrainingWarning, _distinct_solutions, ratio_quantiles, ratios_of

LENGTHS = [3, 5, 1, 4, 2, 5]
BATCH = make_batch([4, 4, 4, 2, 2, 2], LENGTHS, [0, 0, 0, 1, 1, 1], [1, 0, 1, 0.5, 0, 1])


def watched(key: str, values: list[float], **settings: Any) -> list[TrainingWarning]:
    diagnostics = Diagnostics(WarningsConfig(window_steps=2, **settings))
    rows = [{"step": step, key: value} for step, value in enumerate(values, 1)]
    return [warning for row in rows for warning in diagnostics.update(row)]


@pytest.mark.parametrize(
    ("key", "values", "first_steps"),
    [
        # the mean of two steps below 0.3 of the first two's 1.0: first in steps 4 and 5
        ("entropy", [0.9, 1.1, 1.0, 0.4, 0.15, 0.1, 0.1], [5]),
        ("entropy", [0.9, 1.1, 1.0, 0.4, 0.21, 0.5, 0.4], []),
        ("distinct_solutions", [4, 4, 3, 2.5, 1.4, 1, 1], [5]),
        ("groups_with_signal", [0, 0.2, 0.2, 0.05, 0.05, 0, 0.5, 0.0, 0.1], [5, 9]),
        ("truncated", [0.6, 0.3, 0.8, 0.1, 0.1, 0.9, 0.9], [3, 6]),
        ("clip_fraction", [0.1, 0.6, 0.3, 0.7, 0.8], [4]),
        ("engine_weight_at_cap", [0.1, 0.6, 0.3, 0.7, 0.8], [4]),
        ("effective_temperature", [0.1, 0.1, 0.02, 0.01, 0.1, 0.001, 0.001], [4, 7]),
    ],
)
def test_a_warning_fires_once_while_its_condition_holds(key: str, values: list[float], first_steps: list[int]) -> None:
    alarms = watched(key, values)
    assert [(alarm.name, alarm.step) for alarm in alarms] == [(key, step) for step in first_steps]


def test_a_warning_has_the_numbers_and_a_remedy() -> None:
    (alarm,) = watched("entropy", [1.0, 1.0, 0.2, 0.2])
    assert "from 1 in the first 2 steps to 0.2" in alarm.text
    assert "loop.entropy_bonus" in alarm.text


@pytest.mark.parametrize(
    ("key", "values", "off"),
    [
        ("entropy", [1.0, 1.0, 0.0, 0.0], {"entropy_share": 0.0}),
        ("distinct_solutions", [4.0, 4.0, 1.0, 1.0], {"distinct_share": 0.0}),
        ("groups_with_signal", [0.0] * 4, {"equal_groups": -1.0}),
        ("truncated", [1.0] * 4, {"truncated": 2.0}),
        ("clip_fraction", [1.0] * 4, {"clipped": 2.0}),
        ("effective_temperature", [0.001] * 4, {"reward_nats": 0.0}),
    ],
)
def test_each_warning_can_be_switched_off(key: str, values: list[float], off: dict[str, float]) -> None:
    assert watched(key, values)
    assert watched(key, values, **off) == []


def test_diagnostics_give_the_same_warnings_after_a_resume() -> None:
    rows = [{"step": step, "truncated": float(step % 4 < 2)} for step in range(1, 30)]
    one, other = (Diagnostics(WarningsConfig(window_steps=2)) for _ in range(2))
    unbroken = [one.update(row) for row in rows]
    for row in rows[:13]:
        other.update(row)
    assert [other.update(row) for row in rows[13:]] == unbroken[13:]
    assert any(unbroken[13:])


def test_a_metric_that_is_missing_warns_of_nothing() -> None:
    assert watched("reward", [0.0] * 9) == []


# --- gauges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 1000])
def test_ratio_quantiles_equal_numpys(n: int) -> None:
    values = torch.rand(n, generator=torch.Generator().manual_seed(n))
    told = ratio_quantiles(list(values.split(7)))
    for name, share in {"p01": 0.01, "p50": 0.5, "p99": 0.99, "max": 1.0}.items():
        assert told[f"ratio_{name}"] == float(numpy.quantile(values.numpy(), share, method="inverted_cdf"))
    assert ratio_quantiles([]) == {}


def test_ratios_are_those_of_the_loss_or_else_of_tokens() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    by_hand = [
        math.exp(float(current.logp[row, t].detach()) - float(old.logp[row, t]))
        for row, n in enumerate(LENGTHS)
        for t in range(n)
    ]
    assert ratios_of(BATCH, current, old, LossResult(torch.zeros(()), {})).tolist() == pytest.approx(by_hand)
    objective = FlowRLAblation(FlowRLAblation.Config(log_z="none", importance_weight_over="mean"))
    result = objective.loss(BATCH, current, old, objective.advantages(BATCH, old))
    means = [float((current.logp - old.logp)[row, :n].mean().exp().detach()) for row, n in enumerate(LENGTHS)]
    assert ratios_of(BATCH, current, old, result).tolist() == pytest.approx(means)
    bounded = sum(not 0.8 <= ratio <= 1.2 for ratio in means)
    assert 0 < bounded == result.metrics["weight_clipped"][0]


def answer(problem_id: str, index: int, solution: str | None, *, is_right: bool = True) -> Graded[Any]:
    verdict = Verdict(
        "correct" if is_right else "incorrect",
        float(is_right),
        details={"solution": solution} if solution is not None else {},
    )
    completion = Completion(problem_id, index, 0, "", "stop", Tokens(1, 1))
    return Graded(Problem(problem_id, "fake", (), None), completion, verdict)


def test_distinct_solutions_are_counted_by_solved_problem() -> None:
    items = [answer("a", 0, "x"), answer("a", 1, "y"), answer("a", 2, "x"), answer("a", 3, "z", is_right=False)]
    items += [answer("b", 0, "x"), answer("b", 1, "x"), answer("c", 0, "q", is_right=False)]
    assert _distinct_solutions(items) == (2 + 1) / 2
    assert _distinct_solutions([answer("a", 0, None)]) is None
    assert _distinct_solutions(items[-1:]) is None


@pytest.mark.parametrize(
    ("objective", "by_length"),
    [
        (FlowRLAblation(FlowRLAblation.Config(log_z="group_mean", beta=2.0, group_statistics="none")), True),
        (GFlowRL(GFlowRL.Config(beta=2.0, normalise_by_std=False)), True),
        (VarGradTrajectoryBalance(VarGradTrajectoryBalance.Config(beta=2.0)), False),
        (TrajectoryBalance(TrajectoryBalance.Config(beta=2.0, log_z="scalar", log_z_start=0.7)), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_log_z_is_compared_with_the_groups_exact_one(objective: Any, by_length: bool) -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    advantages = objective.advantages(BATCH, old)
    metrics = objective.loss(BATCH, current, old, advantages).metrics
    assert old.logp_reference is not None
    exact = []
    for rows in ([0, 1, 2], [3, 4, 5]):
        rewards = [float(BATCH.rewards[row]) for row in rows]
        if isinstance(objective, GFlowRL):
            rewards = [reward - sum(rewards) / 3 for reward in rewards]
        weights = []
        for row, reward in zip(rows, rewards, strict=True):
            n = LENGTHS[row]
            log_ratio = float((old.logp - old.logp_reference)[row, :n].sum()) / (n if by_length else 1)
            weights.append(math.exp(2.0 * reward - log_ratio))
        exact += [math.log(sum(weights) / 3)] * 3
    assert advantages.extra["log_z_group"].tolist() == pytest.approx(exact)
    mean = metrics["log_z"][0] / 6 if by_length or "residual_squared" not in metrics else 0.7
    is_learned = isinstance(objective, TrajectoryBalance)
    target = advantages.extra["log_z_target"].tolist()
    log_z = [0.7] * 6 if is_learned else target
    assert mean == pytest.approx(sum(log_z) / 6)
    for name, others in (("log_z_group_error", exact), ("log_z_error", target)):
        errors = [abs(one - other) for one, other in zip(log_z, others, strict=True)]
        assert metrics[name][0] / metrics[name][1] == pytest.approx(sum(errors) / 6)
