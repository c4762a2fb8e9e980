"""Reward shaping by length: the overlong penalty and the masking of truncated completions."""

from __future__ import annotations

import pytest
from training_parts import graded, make_batch

from harness.core.tensors import Totals
from harness.trainers.batch import collate, minibatches
from harness.trainers.config import (
    OverlongConfig,
)
from harness.trainers.reward_shaping import untruncated_rows, with_overlong_penalty

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
