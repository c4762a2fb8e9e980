"""Batches made from graded completions."""

from __future__ import annotations

import pytest
from training_parts import graded

from harness.core.errors import RunError
from harness.trainers.batch import collate


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_reward_that_is_not_a_number_stops_the_run(reward: float) -> None:
    other = graded("a", 1, 1.0)
    object.__setattr__(other.verdict, "reward", reward)  # which a verdict refuses
    with pytest.raises(RunError, match="a completion of a the reward"):
        collate([graded("a", 0, 1.0), other], "cpu")
