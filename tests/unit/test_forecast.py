"""What a dry run tells: products of the batch words, and memory that a run then takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.__main__ import main
from harness.core import config as configs
from harness.core.models import resolve
from harness.core.protocols import ModelSource
from harness.core.recipes import find_config
from harness.trainers.forecast import Shape, forecast, memory, shape_of
from harness.trainers.run import parts_of
from harness.trainers.settings import LoraConfig, TrainConfig


def recipe(name: str, **changes: Any) -> TrainConfig:
    return configs.parse(TrainConfig, configs.merge(configs.read_toml(find_config(name)), changes))


def told(name: str, **changes: Any) -> Any:
    config = recipe(name, **changes)
    return forecast(config, parts_of(config, Path("no-such-run")))


def test_the_batch_words_multiply() -> None:
    loop = {"steps": 7, "prompts_per_step": 6, "samples_per_prompt": 5, "minibatches_per_step": 4, "epochs": 3}
    counts = told("countdown-grpo", loop=loop, dynamic_sampling={"max_extra_rounds": 2}).counts
    assert counts["sequences a step"] == 30
    assert counts["sequences a minibatch, at most"] == 10, "six prompts in four: 2, 2, 1, 1"
    assert counts["optimiser updates a step"] == 12
    assert counts["optimiser updates of the run"] == 84
    assert counts["completions of the run"] == 210
    assert counts["completions of the run, at most"] == 630
    assert told("countdown-remax", loop=loop).counts["completions of the run"] == 7 * (30 + 6)


def test_the_shape_is_the_bundled_model_s() -> None:
    shape = shape_of(ModelSource(resolve("countdown-tiny"), dtype="float32"))
    # embeddings (tied), and of each layer: q, k, v with biases, o, gate, up, down, two norms; and the last norm
    layer = 3 * (96 * 96 + 96) + 96 * 96 + 3 * 96 * 256 + 2 * 96
    assert shape == Shape(110 * 96 + 3 * layer + 96, 3, 96, 256, 96, 96, 110, 4, longest=64)


def test_what_stays_is_counted_by_hand() -> None:
    shape = Shape(1000, 2, 8, 16, 8, 4, 50, 4)
    needed = memory(
        recipe("countdown-flowrl"), shape, n_own=10, has_reference=True, longest_prompt=9, max_tokens=14, batch_rows=256
    )
    weights, own = 4000, 40
    assert needed["weights"] == needed["gradients"] == weights + own
    assert needed["optimiser states"] == 2 * (weights + own)
    assert needed["reference"] == weights
    # two layers' keys and values of 4 numbers, half as much again, for 23 tokens of 256 rows; logits three times
    assert needed["keys and values while sampling"] == 256 * (1.5 * 2 * 2 * 4 * 4 * 23 + 3 * 4 * 50)
    stays = 4 * (weights + own) + weights
    passes = [needed[name] for name in ("activations of a micro-batch", "logits of a chunk")]
    others = [needed[name] for name in ("pass before the updates", "keys and values while sampling")]
    assert needed["at the peak"] == stays + max(sum(passes), *others)


@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")])
def test_adapters_alone_have_gradients_and_the_reference_is_no_copy(targets: tuple[str, ...]) -> None:
    shape = shape_of(
        ModelSource(resolve("countdown-tiny"), dtype="float32"), LoraConfig(rank=4, target_modules=targets)
    )
    # of each layer: q, k, v and o are 96 x 96; gate, up and down 96 x 256
    adapters = 3 * 4 * (2 * 96 + 96 + 256 if targets else 4 * 2 * 96 + 3 * (96 + 256))
    assert shape.n_adapters == adapters
    for reset, copies in ((0, 0), (1, 1)):
        config = recipe("countdown-flowrl", reference={"reset_every_steps": reset})
        lengths = {"longest_prompt": 9, "max_tokens": 14, "batch_rows": 256}
        needed = memory(config, shape, n_own=10, has_reference=True, **lengths)
        assert needed["weights"] == 4 * (shape.n_parameters + adapters + 10)
        assert needed["gradients"] == 4 * (adapters + 10)
        assert needed["optimiser states"] == 8 * (adapters + 10)
        assert needed["reference"] == 4 * adapters * copies


def test_a_dry_run_knows_the_adapters_and_tells_what_it_does_not_count() -> None:
    changes = {"lora": {"rank": 4}, "loop": {"precision": "bfloat16", "compile": True}}
    adapted, plain = told("countdown-grpo", **changes), told("countdown-grpo")
    assert adapted.memory["gradients"] < 0.2 * plain.memory["gradients"]
    assert [remark.split()[0:2] for remark in adapted.remarks] == [["The", "sum"], ["What", "compiled"]]
    assert plain.remarks == ()


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_run_takes_what_was_forecast(gradient_checkpointing: bool, tmp_path: Path) -> None:
    """Within a factor of 1.6, on this machine's processor, weights and libraries not counted."""
    loop = {"steps": 1, "prompts_per_step": 16, "samples_per_prompt": 8, "minibatches_per_step": 1}
    loop |= {"tokens_per_microbatch": 5000, "gradient_checkpointing": gradient_checkpointing}
    changes = json.dumps({"loop": loop, "sampling": {"max_tokens": 32}})
    program = Path(__file__).parents[1] / "support" / "measured_peak.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), changes], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout.splitlines()[-1])
    assert 1 / 1.6 < sizes["forecast"] / sizes["measured"] < 1.6


def test_a_batch_that_cannot_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trainers.forecast.available_bytes", lambda _: 60_000_000)
    too_large = told("countdown-flowrl").remarks
    assert len(too_large) == 1
    assert "DOES NOT FIT" in too_large[0]
    assert "tokens_per_microbatch" in too_large[0]
    assert told("countdown-flowrl", loop={"tokens_per_microbatch": 200}, engine={"batch_rows": 32}).remarks == ()
    monkeypatch.setattr("harness.trainers.forecast.available_bytes", lambda _: 1_000_000)
    assert "too large to be trained here at all" in told("countdown-flowrl").remarks[0]


def test_what_is_longer_than_a_micro_batch_or_the_model_is_told() -> None:
    short = told("countdown-grpo", loop={"tokens_per_microbatch": 20}).remarks
    assert any("may have 23 tokens" in remark for remark in short)
    long = told("countdown-grpo", sampling={"max_tokens": 60}).remarks
    assert any("69 tokens, and the model was made for 64" in remark for remark in long)


def test_options_without_effect_are_told() -> None:
    (remark,) = told("countdown-flowrl", objective={"variant": "no_log_z"}).remarks
    assert remark.startswith("objective: log_z_lr: without effect where log_z = 'none'")


def test_a_model_that_is_not_here_leaves_the_counts() -> None:
    away = told("countdown-grpo", model={"path": "someone/something"})
    assert away.counts["sequences a step"] == 256
    assert away.memory == {}
    assert "can't be told" in away.remarks[0]


def test_a_dry_run_refuses_what_a_run_would(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "countdown-grpo", "--dry-run"]
    assert main([*words, "--set", "loop.samples_per_prompt=1"]) == 2
    assert "samples_per_prompt to 2" in capsys.readouterr().err
    assert main([*words, "--from-rollouts", str(tmp_path)]) == 2
    assert "--rollouts-only writes them" in capsys.readouterr().err
    held_out = ["--set", "held_out.every_steps=1", "--set", "held_out.tasks=[{id='countdown', min_solutions=9999}]"]
    assert main([*words, *held_out]) == 2
    assert "held_out can't evaluate" in capsys.readouterr().err
    (tmp_path / "checkpoints" / "step-000999").mkdir(parents=True)
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert "has 999 steps already" in capsys.readouterr().err
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["counts"]["sequences a step"] == 256
    assert printed["memory"]["at the peak"] > printed["memory"]["weights"]
