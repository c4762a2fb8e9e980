"""Every advantage against its paper's formula, written out in `support/advantage_formulas.py`."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import advantage_formulas as formulas
import pytest
import torch
from advantage_formulas import Answer, Formula
from training_parts import make_batch

from harness.core.errors import RunError
from harness.core.registry import entries, load
from harness.core.tensors import Batch, PolicyOutputs

CASES: list[tuple[str, dict[str, Any], Formula]] = [
    ("group", {}, formulas.group(1e-6)),
    ("group", {"eps": 0.1}, formulas.group(0.1)),
    ("mean", {}, formulas.mean),
    ("leave_one_out", {}, formulas.leave_one_out),
    ("maxrl", {}, formulas.maxrl),
    ("maxrl", {"centred": False}, formulas.maxrl_conditional),
    *(("pkpo", {"k": k}, formulas.pkpo(k)) for k in (1, 2, 3, 5)),
    *(("pkpo", {"k": k, "baseline": "others"}, formulas.pkpo_others(k)) for k in (2, 4)),
    *(("pkpo", {"k": k, "baseline": "leave_one_out"}, formulas.pkpo_leave_one_out(k)) for k in (1, 2, 4)),
    *(("pass_at_k", {"k": k}, formulas.pass_at_k(k)) for k in (1, 2, 3, 5)),
    ("risk_sensitive", {}, formulas.risk_sensitive(2.0)),
    ("risk_sensitive", {"beta": -1.5}, formulas.risk_sensitive(-1.5)),
    ("ucpo", {}, formulas.ucpo(0.2, by_sequence=True)),
    ("ucpo", {"tau": 1.0}, formulas.ucpo(1.0, by_sequence=True)),
    ("ucpo", {"tau": 0.7, "q": "mean"}, formulas.ucpo(0.7, by_sequence=False)),
    ("unlikeliness", {}, formulas.unlikeliness(0.25)),
    ("unlikeliness", {"beta": 0.5, "form": "release"}, formulas.unlikeliness(0.5, released=True)),
    ("rarity", {}, formulas.rarity_of_advantage(1.0, keep_total=True)),
    ("rarity", {"alpha": 0.5, "keep_total": False}, formulas.rarity_of_advantage(0.5, keep_total=False)),
    ("rarity", {"form": "reward"}, formulas.rarity_of_reward),
]
IDS = ["-".join([case[0], *map(str, case[1].values())]) for case in CASES]
OF_THE_STEP = {"baseline", "batch"}
"""Not made group by group; tests/trainers/objectives holds them against the losses that they are part of."""


def random_groups(seed: int) -> list[list[Answer]]:
    """Groups of 6 and 7 with 0 to all right, some log-probs equal, some right answers alike or without a class."""
    draw = random.Random(seed)
    groups = []
    for n_right in (0, 1, 2, 3, 5, 6, 7):
        size = max(6, n_right)
        answers = []
        for i in range(size):
            logp = tuple(-draw.expovariate(1.0) for _ in range(draw.randint(1, 5)))
            kind = draw.choice([None, 0, 1, 1, 2])
            answers.append(Answer(float(i < n_right), logp, kind))
        answers[-1] = dataclasses.replace(answers[-1], logp=answers[0].logp)
        draw.shuffle(answers)
        groups.append(answers)
    return groups


def as_batch(groups: list[list[Answer]]) -> tuple[Batch, PolicyOutputs]:
    """The groups interleaved, as rows of float64 tensors."""
    rows = [(number, answer) for number, group in enumerate(groups) for answer in group]
    random.Random(3).shuffle(rows)
    batch = make_batch([2] * len(rows), [len(a.logp) for _, a in rows], [n for n, _ in rows])
    logp = torch.zeros(batch.completion_mask.shape, dtype=torch.float64)
    logp[batch.completion_mask] = torch.tensor([value for _, a in rows for value in a.logp], dtype=torch.float64)
    batch = dataclasses.replace(
        batch,
        rewards=torch.tensor([a.reward for _, a in rows], dtype=torch.float64),
        classes=torch.tensor([a.kind if a.kind is not None else -1 for _, a in rows]),
    )
    return batch, PolicyOutputs(logp=logp)


def build(advantage_id: str, options: dict[str, Any]) -> Any:
    plugin = load("advantages", advantage_id)
    return plugin(plugin.Config(**options))


def by_group(values: torch.Tensor, groups: list[list[Answer]]) -> list[list[float]]:
    """Undo the interleaving of `as_batch`."""
    places = [(number, i) for number, group in enumerate(groups) for i in range(len(group))]
    random.Random(3).shuffle(places)
    found = dict(zip(places, values.tolist(), strict=True))
    return [[found[number, i] for i in range(len(group))] for number, group in enumerate(groups)]


@pytest.mark.parametrize(("advantage_id", "options", "formula"), CASES, ids=IDS)
@pytest.mark.parametrize("seed", range(5))
def test_advantage_is_its_formula(advantage_id: str, options: dict[str, Any], formula: Formula, seed: int) -> None:
    groups = random_groups(seed)
    values = by_group(build(advantage_id, options).compute(*as_batch(groups)), groups)
    for group, found in zip(groups, values, strict=True):
        assert found == pytest.approx(formula(group), rel=1e-9, abs=1e-9), group


def test_every_advantage_of_a_group_has_a_formula() -> None:
    assert {case[0] for case in CASES} | OF_THE_STEP == set(entries("advantages"))


@pytest.mark.parametrize(("advantage_id", "options"), [(case[0], case[1]) for case in CASES], ids=IDS)
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_group_cut_to_one_completion_has_a_finite_advantage(
    advantage_id: str, options: dict[str, Any], reward: float
) -> None:
    """As where the others could not be graded; only MaxRL without its baseline teaches anything there."""
    batch, old = as_batch([[Answer(reward, (-1.0, -2.0), 4)], random_groups(0)[2]])
    values = by_group(build(advantage_id, options).compute(batch, old), [[Answer(reward, ())], random_groups(0)[2]])
    teaches = options.get("centred") is False or (advantage_id == "pkpo" and options["k"] == 1)
    assert values[0] == pytest.approx([reward if teaches else 0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("advantage_id", "is_zero"),
    [("group", True), ("maxrl", True), ("pkpo", True), ("pass_at_k", True), ("ucpo", True), ("unlikeliness", False)],
)
def test_group_without_a_wrong_completion(advantage_id: str, is_zero: bool) -> None:
    batch, old = as_batch([random_groups(1)[6]])
    values = build(advantage_id, {}).compute(batch, old)
    assert bool((values == 0).all()) == is_zero


@pytest.mark.parametrize("advantage_id", ["maxrl", "pkpo", "pass_at_k", "unlikeliness", "rarity"])
def test_rewards_outside_the_formula_stop_with_one_line(advantage_id: str) -> None:
    batch, old = as_batch(random_groups(2))
    shaped = dataclasses.replace(batch, rewards=batch.rewards - 0.5)
    with pytest.raises(RunError, match=r"rewards from -0\.5 to 0\.5: choose another objective\.advantage"):
        build(advantage_id, {}).compute(shaped, old)


@pytest.mark.parametrize(
    ("advantage_id", "options", "complaint"),
    [
        ("group", {"eps": -1e-6}, "eps must not be negative"),
        ("baseline", {"decay": 1.0}, "decay must lie in"),
        ("batch", {"gamma": 1.5}, "gamma must lie in"),
        ("batch", {"baseline": "group_mean", "gamma": 0.9}, "leave gamma at 1"),
        ("maxrl", {"eps": 0.0}, "eps must be above 0"),
        ("pkpo", {"k": 0}, "k must be at least 1"),
        ("pass_at_k", {"k": 0}, "k must be at least 1"),
        ("risk_sensitive", {"beta": 0.0}, "its limit there is the advantage 'mean'"),
        ("ucpo", {"tau": 1.5}, "tau must lie in"),
        ("unlikeliness", {"beta": 0.0}, "beta must lie in"),
        ("rarity", {"alpha": 0.0}, "alpha must be above 0"),
        ("rarity", {"form": "reward", "alpha": 0.5}, "does not use alpha and keep_total"),
    ],
)
def test_options_without_a_meaning_are_refused(advantage_id: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load("advantages", advantage_id).Config(**options)


# --- what the docstrings claim ----------------------------------------------------------------------------------


def test_ucpo_keeps_the_total_credit_of_a_group() -> None:
    batch, old = as_batch(random_groups(4))
    grpo, ucpo = (build(name, {}).compute(batch, old) for name in ("group", "ucpo"))
    for number in batch.group_ids.unique():
        rows = (batch.group_ids == number) & (batch.rewards > 0)
        torch.testing.assert_close(ucpo[rows].sum(), grpo[rows].sum(), rtol=1e-9, atol=1e-9)


def test_released_ucpo_moves_two_percent_of_the_credit_for_a_tenth_of_a_nat() -> None:
    answers = [Answer(1.0, (-1.0,) * 40), Answer(1.0, (-1.1,) * 40), Answer(0.0, (-1.0,))]
    spread = {}
    for q in ("mean", "sequence"):
        (likely, rare, _), *_ = by_group(build("ucpo", {"q": q}).compute(*as_batch([answers])), [answers])
        spread[q] = (rare - likely) / ((rare + likely) / 2)
    assert spread["mean"] == pytest.approx(0.02, abs=1e-4)
    assert spread["sequence"] > 0.38


def test_rarity_gives_every_class_of_a_group_the_same_credit() -> None:
    answers = [Answer(1.0, (-1.0,), kind) for kind in (0, 0, 0, 1)] + [Answer(0.0, (-1.0,))] * 4
    (values,) = by_group(build("rarity", {}).compute(*as_batch([answers])), [answers])
    assert sum(values[:3]) == pytest.approx(values[3])
    assert sum(values) == pytest.approx(0.0, abs=1e-9)


def test_shuffled_classes_keep_their_sizes_and_stay_with_the_right() -> None:
    answers = [Answer(1.0, (-1.0,), kind) for kind in (0, 0, 0, 1, 2, 2)] + [Answer(0.0, (-1.0,))] * 2
    batch, old = as_batch([answers])
    plain, dealt = (build("rarity", {"shuffle": shuffle}) for shuffle in (False, True))
    torch.manual_seed(0)
    draws = [dealt.compute(batch, old) for _ in range(20)]
    for values in draws:
        assert sorted(values.tolist()) == pytest.approx(sorted(plain.compute(batch, old).tolist()))
        assert (values[batch.rewards == 0] < 0).all()
    assert len({tuple(values.tolist()) for values in draws}) > 5


def test_risk_sensitive_is_the_mean_for_a_small_beta_and_the_maximum_for_a_large_one() -> None:
    answers = [Answer(reward, (-1.0,)) for reward in (0.0, 0.5, 0.9, 1.0)]
    batch, old = as_batch([answers])
    small, large = (build("risk_sensitive", {"beta": beta}).compute(batch, old) for beta in (1e-9, 200.0))
    torch.testing.assert_close(small, build("mean", {}).compute(batch, old), rtol=1e-6, atol=1e-6)
    weights = large + 1 / 200.0  # without the baseline
    assert float(weights[batch.rewards == 1] / weights.sum()) == pytest.approx(1.0, abs=1e-6)
