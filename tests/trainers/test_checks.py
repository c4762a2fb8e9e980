"""The checks before a training run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from training import recipe

from harness.core.errors import ConfigError
from harness.core.types import Sampling
from harness.trainers.checks import temperature_of


def test_a_task_that_truncates_by_default_is_refused_with_the_settings_that_turn_it_off() -> None:
    task: Any = SimpleNamespace(sampling=Sampling(8, temperature=0.0, top_p=0.9, top_k=5))
    with pytest.raises(ConfigError) as caught:
        temperature_of(recipe("countdown-grpo"), task)
    assert str(caught.value) == (
        "this task samples with top_p and top_k and temperature 0 by default, which biases training; set "
        "sampling.top_p = 1 and sampling.top_k = 0 and a sampling.temperature above 0"
    )


def test_the_temperature_of_a_run_is_the_configs_else_the_tasks() -> None:
    task: Any = SimpleNamespace(sampling=Sampling(8, temperature=0.7))
    assert temperature_of(recipe("countdown-grpo"), task) == 0.7
    assert temperature_of(recipe("countdown-grpo", sampling={"temperature": 0.9}), task) == 0.9
