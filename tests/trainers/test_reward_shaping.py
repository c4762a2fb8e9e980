"""Reward shaping by length: MARA, the overlong penalty and the masking of truncated completions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from training import recipe
from training_parts import graded, make_batch, make_outputs

from harness.core.errors import ConfigError
from harness.core.tensors import Batch, PolicyOutputs, Totals
from harness.trainers.batch import collate, minibatches
from harness.trainers.config import MaraConfig, OverlongConfig
from harness.trainers.reward_shaping import untruncated_rows, with_mara, with_overlong_penalty
from harness.trainers.setup import build_setup

BATCH = make_batch([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0.5, 0, 1])


def test_overlong_penalty_grows_from_the_buffer_to_the_limit() -> None:
    after = with_overlong_penalty(BATCH, OverlongConfig(buffer_tokens=4, penalty=0.5), max_tokens=6)
    lengths = [3, 5, 1, 4, 2, 5]
    expected = [r - 0.5 * min(max((n - 2) / 4, 0), 1) for r, n in zip(BATCH.rewards.tolist(), lengths, strict=True)]
    assert after.rewards.tolist() == pytest.approx(expected)


def test_truncated_completions_are_left_out_of_minibatches() -> None:
    items = [graded("a", i, 1.0, finish_reason=reason) for i, reason in enumerate(["stop", "length", "stop"])]
    assert untruncated_rows(items).tolist() == [True, False, True]
    batch = collate(items, "cpu")
    assert [rows.tolist() for rows, _ in minibatches(batch, 1)] == [[0, 1, 2]]
    ((rows, totals),) = minibatches(batch, 1, untruncated_rows(items))
    assert rows.tolist() == [0, 2]
    assert totals == Totals(2, 2)


# --- MARA -------------------------------------------------------------------------------------------------------


def shaped(beta: float) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Two groups: three right ones of four, and none right."""
    batch = make_batch([2] * 6, [3, 1, 2, 3, 2, 2], [0, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0])
    reference = make_outputs(batch, seed=4).logp_reference
    assert reference is not None
    batch = dataclasses.replace(batch, rewards=batch.rewards.double())
    after = with_mara(batch, PolicyOutputs(logp=reference, logp_reference=reference), MaraConfig(beta=beta))
    return batch, reference.sum(1), after.rewards


def test_mara_anchors_right_completions_at_the_most_probable_one() -> None:
    batch, logp, rewards = shaped(0.3)
    anchor = max(float(logp[i]) for i in range(3))
    expected = [1 + 0.3 * (anchor - float(logp[i])) for i in range(3)] + [0.0, 0.0, 0.0]
    assert rewards.tolist() == pytest.approx(expected)
    assert rewards.dtype == batch.rewards.dtype


def test_optimum_under_mara_has_right_completions_equally_probable() -> None:
    """reference exp(r / beta), up to Z: the optimum of the reward less beta KL."""
    _, logp, rewards = shaped(0.3)
    tilted = (logp + rewards / 0.3)[:4]
    torch.testing.assert_close(tilted[:3], tilted[:1].expand(3))
    _, plain, unshaped = shaped(1e-12)
    assert float((plain + unshaped.round() / 0.3)[:3].std()) > 0.1, "without it the reference's ratios stay"
    assert float(tilted[3]) < float(tilted[0])


def test_mara_warns_of_another_coefficient_and_is_refused_where_rewards_are_not_read(tmp_path: Path) -> None:
    kl = {"place": "loss", "coefficient": 0.2, "estimator": "k2"}
    setup = build_setup(recipe("countdown-grpo", mara={"beta": 0.1}, kl=kl), tmp_path)
    assert setup.warnings == (
        "mara.beta = 0.1 and kl.coefficient = 0.2: right completions become equally probable only where the two are "
        "the same",
    )
    assert setup.with_reference
    with pytest.raises(ConfigError, match=r"mara\.beta adds to them"):
        build_setup(recipe("countdown-maxrl", mara={"beta": 0.1}), tmp_path)
    with pytest.raises(ConfigError, match=r"mara\.beta would do nothing"):
        build_setup(recipe("countdown-base", mara={"beta": 0.1}), tmp_path)
