"""Settings of training: their bounds, and those that would have no effect."""

from __future__ import annotations

from typing import Any

import pytest

from harness.core import config as configs
from harness.core.errors import ConfigError
from harness.trainers.config import CheckpointConfig, EngineCorrectionConfig, KlConfig, OverlongConfig, TrainConfig


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (KlConfig, {"coefficient": 0.01}),
        (KlConfig, {"estimator": "k3"}),
        (KlConfig, {"ratio_weighted": True}),
        (OverlongConfig, {"penalty": 0.5}),
        (EngineCorrectionConfig, {"cap": 5.0}),
    ],
)
def test_settings_of_disabled_features_are_refused(section: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"off|buffer_tokens above 0"):
        section(**settings)
    OverlongConfig(mask_truncated=True)  # has nothing to do with the buffer


MINIMAL: dict[str, Any] = {
    "model": {"path": "countdown-tiny"},
    "task": "countdown",
    "objective": "grpo",
    "loop": {"steps": 1, "prompts_per_step": 1, "samples_per_prompt": 2},
    "optimizer": {"lr": 1e-4},
}


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("loop.steps", 0, "at least 1 (such as 160)"),
        ("loop.prompts_per_step", 0, "at least 1 (such as 16)"),
        ("loop.samples_per_prompt", 0, "at least 1 (such as 8)"),
        ("loop.minibatches_per_step", 0, "at least 1 (1 is one update a step)"),
        ("loop.epochs", 0, "at least 1 (1 learns from each completion once)"),
        ("loop.tokens_per_microbatch", 0, "at least 1 (such as 2048)"),
        ("optimizer.lr", 0, "above 0 (such as 1e-6)"),
        ("optimizer.betas", [0.9, 1.0], "below 1 (such as [0.9, 0.999])"),
        ("optimizer.betas", [-0.1, 0.9], "at least 0 (such as [0.9, 0.999])"),
        ("optimizer.eps", 0, "above 0 (such as 1e-8)"),
        ("optimizer.weight_decay", -1, "at least 0 (0 is off, 0.1 is common)"),
        ("optimizer.warmup_steps", -1, "at least 0 (0 is off)"),
        ("optimizer.final_lr_fraction", -1, "at least 0 (0 decays to nothing)"),
        ("optimizer.grad_clip", -1, "at least 0 (1 is common, 0 is off)"),
        ("dynamic_sampling.max_extra_rounds", -1, "at least 0 (0 is off)"),
        ("overlong.buffer_tokens", -1, "at least 0 (0 is off)"),
        ("overlong.penalty", -1, "at least 0 (such as 0.5)"),
        ("kl.target", 0, "above 0 (such as 0.01)"),
        ("mara.beta", -1, "at least 0 (0 is off)"),
        ("kl.horizon", 0, "at least 1 (such as 10000)"),
        ("reference.reset_every_steps", -1, "at least 0 (0 is off)"),
        ("reference.reset_on_stall_steps", -1, "at least 0 (0 is off)"),
        ("engine_correction.cap", 0, "above 0 (such as 2)"),
        ("engine_correction.max_gap", 0, "above 0 (such as 0.01)"),
        ("lora.rank", -1, "at least 0 (0 is off, 16 is common)"),
        ("lora.alpha", 0, "above 0 (such as 32)"),
        ("checkpoint.every_steps", 0, "at least 1 (such as 10)"),
        ("checkpoint.keep", 0, "at least 1 (such as 2)"),
        ("held_out.every_steps", -1, "at least 0 (0 is off)"),
        ("held_out.limit", 0, "at least 1 (such as 96)"),
        ("held_out.n", 0, "at least 1 (such as 16)"),
        ("held_out.temperature", -1, "at least 0 (0 is greedy)"),
        ("held_out.max_tokens", 0, "at least 1"),
        ("warnings.window_steps", 0, "at least 1 (such as 10)"),
        ("warnings.entropy_share", -1, "at least 0 (0 is off)"),
        ("warnings.distinct_share", -1, "at least 0 (0 is off)"),
        ("warnings.reward_nats", -1, "at least 0 (0 is off)"),
    ],
)
def test_a_number_out_of_range_names_the_bound_and_a_good_value(key: str, value: Any, bound: str) -> None:
    section, name = key.split(".")
    with pytest.raises(ConfigError) as caught:
        configs.parse(TrainConfig, configs.merge(MINIMAL, {section: {name: value}}))
    assert str(caught.value) == f"{key!r} must be {bound}, not {value!r}"


@pytest.mark.parametrize(("n_steps", "interval"), [(1, 1), (4, 1), (10, 1), (11, 2), (160, 16), (205, 21)])
def test_checkpoints_are_saved_at_every_tenth_of_a_run_unless_set(n_steps: int, interval: int) -> None:
    assert CheckpointConfig().interval(n_steps) == interval
    assert CheckpointConfig(every_steps=7).interval(n_steps) == 7
