"""Identities between objectives, and the state they keep from step to step."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from training_parts import detached, make_batch, make_outputs

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.core.registry import load
from harness.core.tensors import Advantages, Batch, ModelShape, PolicyOutputs
from harness.trainers.batch import microbatch, select
from harness.trainers.functional import group_mean, group_normalise, sequence_sum

BATCH = make_batch([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0.5, 0, 1])
BATCH = dataclasses.replace(BATCH, rewards=BATCH.rewards.double())


def build(objective_id: str, **options: Any) -> Any:
    plugin = load("objectives", objective_id)
    objective = plugin(plugin.Config(**options))
    objective.prepare(ModelShape(hidden_size=8, device="cpu"), seed=0)
    return objective


def gradient_of(loss: torch.Tensor, current: PolicyOutputs) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, current.logp, retain_graph=True)
    return gradient


def gradient(objective: Any, current: PolicyOutputs, old: PolicyOutputs, batch: Batch = BATCH) -> torch.Tensor:
    return gradient_of(objective.loss(batch, current, old, objective.advantages(batch, old)).loss, current)


def on_policy(batch: Batch = BATCH) -> tuple[PolicyOutputs, PolicyOutputs]:
    current = make_outputs(batch)
    reference = make_outputs(batch, seed=2).logp_reference
    return current, dataclasses.replace(detached(current), logp_reference=reference)


def mean_baseline_reinforce(rewards: torch.Tensor, current: PolicyOutputs) -> torch.Tensor:
    """The gradient of REINFORCE with the group's mean as baseline, which RLOO is up to a factor."""
    batch = dataclasses.replace(BATCH, rewards=rewards)
    group_size = 3
    return gradient(build("rloo"), current, detached(current), batch) * (group_size - 1) / group_size


def test_vargrad_is_mean_baseline_reinforce_with_the_kl_in_the_reward() -> None:
    current, old = on_policy()
    assert old.logp_reference is not None
    beta = 1.7
    kl = sequence_sum(current.logp.detach() - old.logp_reference, BATCH.completion_mask)
    expected = 2 * beta * mean_baseline_reinforce(BATCH.rewards - kl / beta, current)
    torch.testing.assert_close(gradient(build("vargrad_tb", beta=beta), current, old), expected)


def test_flowrl_with_the_group_s_mean_as_log_z_is_mean_baseline_reinforce() -> None:
    current, old = on_policy()
    assert old.logp_reference is not None
    beta = 1.7
    kl = sequence_sum(current.logp.detach() - old.logp_reference, BATCH.completion_mask)
    score = group_normalise(BATCH.rewards, BATCH.group_ids)
    expected = 2 * beta * mean_baseline_reinforce(score - kl / beta, current)
    objective = build(
        "flowrl_ablation", log_z="group_mean", beta=beta, normalise_by_length=False, importance_weight="none"
    )
    torch.testing.assert_close(gradient(objective, current, old), expected)


def test_vargrad_is_the_gradient_of_the_group_s_variance() -> None:
    current, old = on_policy()
    assert old.logp_reference is not None
    log_reward = 15.0 * BATCH.rewards + sequence_sum(old.logp_reference, BATCH.completion_mask)
    gap = sequence_sum(current.logp, BATCH.completion_mask) - log_reward
    variance = (gap - group_mean(gap, BATCH.group_ids)).square().mean()
    torch.testing.assert_close(gradient(build("vargrad_tb"), current, old), gradient_of(variance, current))


def test_gflowrl_without_its_clips_is_flowrl_with_the_group_s_mean() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    wide = build("gflowrl", beta=2.0, gap_low=1e9, gap_high=1e9, weight_cap=1e9)
    flowrl = build("flowrl_ablation", log_z="group_mean", beta=2.0, importance_weight="unclipped")
    torch.testing.assert_close(gradient(wide, current, old), gradient(flowrl, current, old))


@pytest.mark.parametrize(("reading", "is_fixed"), [("none", True), ("both", False), ("printed", False)])
def test_fixed_point_of_gflowrl_without_lengths_is_the_tilted_reference(reading: str, is_fixed: bool) -> None:
    """On a tree whose leaves are all in the group; the balanced policy is reference exp(2 r) / Z."""
    batch, reference, balanced = tree()
    lengths = torch.tensor([3, 2, 1, 3, 2, 1, 3, 2])  # the same policy, with its log-probs on fewer tokens
    mask = torch.arange(DEPTH) < lengths[:, None]
    short = [torch.zeros_like(reference).masked_scatter(mask, spread(x, lengths)) for x in (reference, balanced)]
    batch = dataclasses.replace(batch, completion_mask=mask, completion_lengths=lengths)
    current = dataclasses.replace(make_outputs(batch), logp=short[1].clone().requires_grad_())
    old = PolicyOutputs(logp=short[1], logp_reference=short[0])
    objective = build("gflowrl", beta=2.0, gap_low=9.0, gap_high=9.0, normalise_by_std=False, reading=reading)
    assert bool(gradient(objective, current, old, batch).abs().max() < 1e-12) == is_fixed


def spread(logp: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The sums over rows, as equal log-probs of the first tokens, in the order of the mask."""
    return torch.cat([(row.sum() / n).expand(n) for row, n in zip(logp, lengths.tolist(), strict=True)])


def test_gap_of_gflowrl_is_recorded_as_reward_and_drift() -> None:
    current, old = on_policy()
    assert old.logp_reference is not None
    objective = build("gflowrl", beta=3.0, gap_low=2.0, gap_high=2.0)
    advantages = objective.advantages(BATCH, old)
    metrics = objective.loss(BATCH, current, old, advantages).metrics
    drift = sequence_sum(old.logp - old.logp_reference, BATCH.completion_mask) / BATCH.completion_lengths
    reward = -3.0 * group_normalise(BATCH.rewards, BATCH.group_ids)
    centred = drift - group_mean(drift, BATCH.group_ids)
    torch.testing.assert_close(advantages.extra["gap"], reward + centred)
    assert metrics["gap_reward"] == pytest.approx((float(reward.abs().sum()), 6.0))
    assert metrics["gap_drift"] == pytest.approx((float(centred.abs().sum()), 6.0))
    assert metrics["gap_clipped"] == (float(((reward + centred).abs() > 2.0).sum()), 6.0)


def test_ppo_is_grpo_s_surrogate_under_the_same_advantages() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    ppo, grpo = build("ppo"), build("grpo", kl_beta=0.0, reduction="token_mean")
    advantages = grpo.advantages(BATCH, old)
    by_token = advantages.values[:, None].expand(BATCH.completion_mask.shape)
    nothing = torch.zeros_like(BATCH.completion_mask, dtype=torch.float64)  # a new critic says 0: no value loss
    same = Advantages(by_token, {"values": nothing, "returns": nothing})
    one, other = ppo.loss(BATCH, current, old, same), grpo.loss(BATCH, current, old, advantages)
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(gradient_of(one.loss, current), gradient_of(other.loss, current))


@pytest.mark.parametrize("other", [("gspo", {"clip_low": 0.2, "clip_high": 0.2}), ("gmpo", {})])
def test_for_one_token_sequence_ratios_are_ppo_s(other: tuple[str, dict[str, float]]) -> None:
    batch = make_batch([3] * 6, [1] * 6, [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 1])
    current, old = make_outputs(batch), detached(make_outputs(batch, seed=2))
    low, high = (0.2, 0.2) if other[0] == "gspo" else (1 - math.exp(-0.4), math.exp(0.4) - 1)
    token_level = build("grpo", kl_beta=0.0, clip_low=low, clip_high=high)
    expected = gradient(token_level, current, old, batch)
    assert (expected == 0).any() and (expected != 0).any(), "some are clipped, some are not"
    torch.testing.assert_close(gradient(build(other[0], **other[1]), current, old, batch), expected)


def test_clipped_objectives_agree_before_the_first_update() -> None:
    current, old = on_policy()
    expected = gradient(build("grpo", kl_beta=0.0), current, old)
    for objective in (build("gspo"), build("gmpo"), build("cispo", reduction="sequence_mean")):
        torch.testing.assert_close(gradient(objective, current, old), expected)
    trpo = build("trpo", reduction="sequence_mean")
    torch.testing.assert_close(gradient(trpo, current, old), expected)


@pytest.mark.parametrize(
    ("objective_id", "options"),
    [("sapo", {}), ("dppo", {"reduction": "sequence_mean"}), ("kl_cov", {"reduction": "sequence_mean"})],
)
def test_other_token_level_surrogates_agree_before_the_first_update(objective_id: str, options: dict[str, Any]) -> None:
    current, old = on_policy()
    expected = gradient(build("grpo", kl_beta=0.0), current, old)
    torch.testing.assert_close(gradient(build(objective_id, **options), current, old), expected)


def test_clip_cov_drops_as_many_tokens_as_its_share() -> None:
    current, old = on_policy()
    objective = build("clip_cov", share=0.1, cov_low=-9.0, cov_high=9.0)
    torch.manual_seed(0)
    advantages = objective.advantages(BATCH, old)
    assert int((~advantages.extra["is_kept"]).sum()) == 2  # of 20 tokens
    metrics = objective.loss(BATCH, current, old, advantages).metrics
    assert metrics["tokens_marked"] == (2.0, 20.0)
    dropped = gradient_of(objective.loss(BATCH, current, old, advantages).loss, current)
    assert (dropped[~advantages.extra["is_kept"]] == 0).all()


def test_kimi_with_a_small_tau_is_mean_baseline_reinforce() -> None:
    current, old = on_policy()
    expected = mean_baseline_reinforce(BATCH.rewards, current)
    torch.testing.assert_close(gradient(build("kimi", tau=1e-9), current, old), expected, rtol=1e-6, atol=1e-8)


# --- flow balance on a tree that can be counted -----------------------------------------------------------------

DEPTH, BRANCHES = 3, 2


def tree() -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """All leaves of a binary tree as one group; log-probabilities of a reference, and of the policy that balances it.

    The balanced policy of each node is the reference's, tilted by the partition function of what is below it.
    """
    leaves = list(itertools.product(range(BRANCHES), repeat=DEPTH))
    generator = torch.Generator().manual_seed(3)
    rewards = {leaf: float(torch.rand((), generator=generator, dtype=torch.float64)) for leaf in leaves}
    nodes = [path for depth in range(DEPTH) for path in itertools.product(range(BRANCHES), repeat=depth)]
    reference = {
        node: torch.rand(BRANCHES, generator=generator, dtype=torch.float64).log_softmax(0).tolist() for node in nodes
    }

    def log_z(path: tuple[int, ...]) -> float:
        if len(path) == DEPTH:
            return 2.0 * rewards[path]
        return math.log(sum(math.exp(reference[path][b] + log_z((*path, b))) for b in range(BRANCHES)))

    base = [[reference[leaf[:t]][leaf[t]] for t in range(DEPTH)] for leaf in leaves]
    balanced = [
        [reference[leaf[:t]][leaf[t]] + log_z(leaf[: t + 1]) - log_z(leaf[:t]) for t in range(DEPTH)] for leaf in leaves
    ]
    n = len(leaves)
    batch = make_batch([2] * n, [DEPTH] * n, [0] * n, [rewards[leaf] for leaf in leaves])
    batch = dataclasses.replace(batch, rewards=torch.tensor([rewards[leaf] for leaf in leaves], dtype=torch.float64))
    return batch, torch.tensor(base, dtype=torch.float64), torch.tensor(balanced, dtype=torch.float64)


def balance_losses(shift: float) -> dict[str, float]:
    """Each loss at the balanced policy, one leaf of which is moved by `shift`."""
    batch, reference, balanced = tree()
    assert float(balanced.sum(1).exp().sum()) == pytest.approx(1.0, rel=1e-12)
    moved = balanced.clone()
    moved[0, 0] += shift
    current = dataclasses.replace(make_outputs(batch), logp=moved)
    old = PolicyOutputs(logp=moved, logp_reference=reference)
    log_z = float((2.0 * batch.rewards + reference.sum(1)).logsumexp(0))
    plain = {"beta": 2.0, "group_statistics": "none", "normalise_by_length": False, "importance_weight": "none"}
    objectives = {
        "tb": build("tb", beta=2.0, log_z="scalar", log_z_start=log_z),
        "vargrad_tb": build("vargrad_tb", beta=2.0),
        "flowrl": build("flowrl_ablation", log_z="constant", log_z_constant=log_z, **plain),
        "flowrl_vargrad": build("flowrl_ablation", log_z="group_mean", **plain),
    }
    return {
        name: float(objective.loss(batch, current, old, objective.advantages(batch, old)).loss.detach())
        for name, objective in objectives.items()
    }


def test_balance_losses_are_zero_exactly_where_the_flow_balances() -> None:
    assert all(value < 1e-12 for value in balance_losses(0.0).values())
    assert all(value > 1e-4 for value in balance_losses(0.1).values())


# --- flowrl's options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective_id", "option", "advice"),
    [
        ("flowrl", {"variant": "release"}, "'release' is 'flowrl_release'"),
        ("flowrl", {"variant": "paper"}, "'paper' is objective.id = 'flowrl' itself"),
        ("flowrl", {"cap": 5.0}, "objective.id = 'flowrl_recipe'"),
        ("flowrl", {"anchor": "old"}, "objective.id = 'flowrl_ablation'"),
        ("flowrl_release", {"importance_weight": "clipped"}, "objective.id = 'flowrl_ablation'"),
    ],
)
def test_option_moved_to_a_flowrl_sibling_is_refused_naming_it(
    objective_id: str, option: dict[str, Any], advice: str
) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=f"'objective.{name}' is not an option any more: .*{advice}"):
        parse_plugin("objectives", {"id": objective_id, **option}, "objective")


def test_every_former_option_of_flowrl_names_its_new_place() -> None:
    options = load("objectives", "flowrl").removed_options
    own, ablation = (
        {field.name for field in dataclasses.fields(load("objectives", key).Config)}
        for key in ("flowrl", "flowrl_ablation")
    )
    assert options.keys() - {"variant"} == ablation - own


def test_flowrl_pools_the_prompt_without_its_last_token() -> None:
    hidden = torch.randn(6, 4, 8, dtype=torch.float64)  # of four prompt tokens, of which the first two may be all
    lengths = BATCH.prompt_lengths
    current = dataclasses.replace(
        make_outputs(BATCH),
        prompt_hidden=torch.stack([row[:n].mean(0) for row, n in zip(hidden, lengths, strict=True)]),
        prompt_last_hidden=torch.stack([row[n - 1] for row, n in zip(hidden, lengths, strict=True)]),
    )
    objective = build("flowrl_release", log_z_layers=1)
    expected = torch.stack([row[: n - 1].mean(0) for row, n in zip(hidden, lengths, strict=True)])
    torch.testing.assert_close(objective.prompt_state(BATCH, current), expected)


def test_flowrl_release_scale_is_nine_over_the_minibatch_for_each_micro_batch() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    options = {"log_z": "none", "importance_weight": "unclipped"}
    release, plain = (build("flowrl_ablation", loss_scale=scale, **options) for scale in ("release", "mean"))
    for rows in (torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5])):
        part, advantages = microbatch(BATCH, rows, BATCH.totals), select(plain.advantages(BATCH, old), rows)
        arguments = (part, select(current, rows), select(old, rows), advantages)
        mean = plain.loss(*arguments).loss * 6 / len(rows)
        torch.testing.assert_close(release.loss(*arguments).loss, mean * 9 / 6)


def test_flowrl_random_log_z_is_one_draw_a_prompt_around_a_half() -> None:
    objective = build("flowrl_ablation", log_z="random")
    old = detached(make_outputs(BATCH))
    torch.manual_seed(0)
    draws = torch.stack([objective.advantages(BATCH, old).extra["log_z"] for _ in range(4000)])
    assert (draws[:, 0] == draws[:, 2]).all() and (draws[:, 0] != draws[:, 3]).all()
    # four standard errors of 4000 draws from N(0.5, 1)
    assert float(draws[:, 0].mean()) == pytest.approx(0.5, abs=4 / math.sqrt(4000))
    assert float(draws[:, 0].std()) == pytest.approx(1.0, abs=4 / math.sqrt(8000))


def test_flowrl_s_log_z_error_is_zero_where_its_loss_has_no_gradient_in_log_z() -> None:
    """With weight 1, the loss of a group is smallest in log Z at `log_z_target`, and not at `log_z_group`."""
    current, old = on_policy()
    objective = build("flowrl_ablation", beta=1.7, log_z="constant", importance_weight="none")
    advantages = objective.advantages(BATCH, old)
    slopes = {}
    for name in ("log_z_target", "log_z_group"):
        log_z = advantages.extra[name].clone().requires_grad_()
        at = Advantages(advantages.values, {**advantages.extra, "log_z": log_z})
        result = objective.loss(BATCH, current, old, at)
        (slope,) = torch.autograd.grad(result.loss, log_z, retain_graph=True)
        slopes[name] = [float(slope[:3].sum()), float(slope[3:].sum())]
        error = "log_z_error" if name == "log_z_target" else "log_z_group_error"
        assert result.metrics[error] == pytest.approx((0.0, 6.0), abs=1e-12)
    assert slopes["log_z_target"] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert min(slopes["log_z_group"]) > 1e-3


def test_flowrl_logs_the_temperature_and_the_group_s_own_log_z() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    objective = build("flowrl", beta=2.0)
    advantages = objective.advantages(BATCH, old)
    metrics = objective.loss(BATCH, current, old, advantages).metrics
    lengths = BATCH.completion_lengths.tolist()
    assert metrics["effective_temperature"][0] == pytest.approx(sum(1 / (2 * n) for n in lengths))
    assert old.logp_reference is not None
    first = [
        math.exp(float(2 * s + (r[:n] - o[:n]).mean()))
        for s, r, o, n in zip(
            group_normalise(BATCH.rewards, BATCH.group_ids)[:3],
            old.logp_reference,
            old.logp,
            lengths,
            strict=False,
        )
    ]
    assert float(advantages.extra["log_z_group"][0]) == pytest.approx(math.log(sum(first) / 3))


# --- what is remembered between steps ---------------------------------------------------------------------------


def test_reinforce_takes_the_mean_of_steps_before_as_baseline() -> None:
    objective = build("reinforce", advantage=parse_plugin("advantages", {"id": "baseline", "decay": 0.75}))
    old = detached(make_outputs(BATCH))
    means = []
    for factor in (1.0, 2.0, 4.0):
        batch = dataclasses.replace(BATCH, rewards=BATCH.rewards * factor)
        means.append(float((batch.rewards - objective.advantages(batch, old).values)[0]))
    mean = float(BATCH.rewards.mean())
    assert means == pytest.approx([0.0, mean, 0.75 * mean + 0.25 * 2 * mean])


@pytest.mark.parametrize(("move", "factor"), [(1e-5, 0.5), (0.141, 1.0), (0.5, 2.0)])
def test_trpo_doubles_and_halves_its_coefficient(move: float, factor: float) -> None:
    objective = build("trpo", kl_target=0.01, coefficient=3.0)
    current = make_outputs(BATCH)
    old = PolicyOutputs(logp=(current.logp.detach() - move) * BATCH.completion_mask)
    objective.loss(BATCH, current, old, objective.advantages(BATCH, old))
    assert objective.coefficient == 3.0, "not within a step"
    objective.advantages(BATCH, old)
    assert objective.coefficient == 3.0 * factor
    objective.advantages(BATCH, old)
    assert objective.coefficient == 3.0 * factor, "each step is measured once"


# --- edges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective_id", ["grpo", "gspo", "gmpo", "cispo", "trpo", "rloo", "kimi"])
@pytest.mark.parametrize("reward", [0.1, 0.7, -0.9, 1.0])
def test_groups_of_equal_rewards_have_zero_advantage(objective_id: str, reward: float) -> None:
    batch = make_batch([2] * 12, [3] * 12, [0] * 7 + [1] * 5, [reward] * 12)
    old = detached(make_outputs(batch))
    advantages = build(objective_id).advantages(batch, old)
    assert (advantages.values == 0).all(), "the mean of equal numbers in float32 is off by its rounding"


@pytest.mark.parametrize(
    ("objective_id", "options", "complaint"),
    [
        ("gspo", {"clip_low": -1e-4}, "clip_low"),
        ("cispo", {"clip_high": -0.2}, "clip_high"),
        ("grpo", {"kl_beta": -0.1}, "kl_beta"),
        ("flowrl_recipe", {"cap": 0.0}, "cap"),
        ("flowrl_ablation", {"cap": 0.0}, "cap"),
        ("flowrl", {"clip_high": -0.1}, "clip_high"),
        ("gflowrl", {"beta": 0.0}, "beta"),
        ("sapo", {"tau_positive": 0.0}, "tau_positive"),
        ("dppo", {"divergence_high": 1.5}, "divergence_high"),
        ("clip_cov", {"cov_low": 6.0}, "cov_low"),
        ("kl_cov", {"share": 0.0}, "share"),
        ("tb", {"beta": -1.0}, "beta"),
        ("vargrad_tb", {"beta": 0.0}, "beta"),
        ("ppo", {"value_clip": -0.5}, "value_clip"),
        ("rloo", {"dual_clip": 3.0}, "'clipped'"),
        ("remax", {"clip_high": 0.28}, "'clipped'"),
        ("reinforce", {"clip_low": 0.1, "reduction": "token_mean"}, "'clipped'"),
    ],
)
def test_options_out_of_range_or_without_effect_are_refused(
    objective_id: str, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        load("objectives", objective_id).Config(**options)


def test_ppo_value_loss_is_weighted_by_its_coefficient() -> None:
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    results = []
    for coefficient in (1.0, 3.0):
        ppo = build("ppo", value_coefficient=coefficient)
        results.append(ppo.loss(BATCH, current, old, ppo.advantages(BATCH, old)))
    value_loss, n_tokens = results[0].metrics["value_loss"]
    difference = float((results[1].loss - results[0].loss).detach())
    assert difference == pytest.approx(2 * value_loss / n_tokens) != 0


@pytest.mark.parametrize(
    ("objective_id", "is_zero"), [("flowrl", True), ("flowrl_release", False), ("flowrl_recipe", False)]
)
def test_log_z_begins_at_zero_only_in_the_paper_s_objective(objective_id: str, is_zero: bool) -> None:
    objective, outputs = build(objective_id), make_outputs(BATCH)
    log_z = objective.log_z(BATCH, outputs, objective.advantages(BATCH, detached(outputs)))
    assert bool((log_z == 0).all()) == is_zero
