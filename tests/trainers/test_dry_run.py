"""Effective batch sizes and the memory estimate of a dry run."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.__main__ import main
from harness.core import config as configs
from harness.core.protocols import ModelSource
from harness.core.recipes import find_config
from harness.models.loading import resolve
from harness.trainers.config import LoraConfig, TrainConfig
from harness.trainers.dry_run import ModelDimensions, dimensions_of, dry_run, estimate_memory
from harness.trainers.setup import build_setup


def recipe(name: str, **changes: Any) -> TrainConfig:
    return configs.parse(TrainConfig, configs.merge(configs.read_toml(find_config(name)), changes))


def dry_run_of(name: str, **changes: Any) -> Any:
    config = recipe(name, **changes)
    return dry_run(config, build_setup(config, Path("no-such-run")))


def test_batch_counts_are_products_of_the_loop_settings() -> None:
    loop = {"steps": 7, "prompts_per_step": 6, "samples_per_prompt": 5, "minibatches_per_step": 4, "epochs": 3}
    counts = dry_run_of("countdown-grpo", loop=loop, dynamic_sampling={"max_extra_rounds": 2}).counts
    assert counts["sequences a step"] == 30
    assert counts["sequences a minibatch, at most"] == 10, "six prompts in four: 2, 2, 1, 1"
    assert counts["optimiser updates a step"] == 12
    assert counts["optimiser updates of the run"] == 84
    assert counts["completions of the run"] == 210
    assert counts["completions of the run, at most"] == 630
    assert dry_run_of("countdown-remax", loop=loop).counts["completions of the run"] == 7 * (30 + 6)


def test_dimensions_are_those_of_the_bundled_model() -> None:
    model = dimensions_of(ModelSource(resolve("countdown-tiny"), dtype="float32"))
    # embeddings (tied), and of each layer: q, k, v with biases, o, gate, up, down, two norms; and the last norm
    layer = 3 * (96 * 96 + 96) + 96 * 96 + 3 * 96 * 256 + 2 * 96
    assert model == ModelDimensions(110 * 96 + 3 * layer + 96, 3, 96, 256, 96, 96, 110, 4, longest=64)


LENGTHS = {"prompt_tokens": 9, "max_tokens": 14, "rows_at_once": 256}


def test_the_estimate_of_a_small_model_is_that_counted_by_hand() -> None:
    model = ModelDimensions(1000, 2, 8, 16, 8, 4, 50, 4)
    # 16 prompts with 16 samples in two minibatches of 128 sequences; 23 tokens each
    memory = estimate_memory(recipe("countdown-flowrl"), model, n_own=10, has_reference=True, **LENGTHS)
    weights, own = 4000, 40
    assert memory["weights"] == memory["gradients"] == weights + own
    assert memory["optimiser states"] == 2 * (weights + own)
    assert memory["reference"] == weights
    # 2,800 tokens have room for 121 sequences; the prompts of a minibatch are read once each
    kept = 2 * 4 * (6 * 8 + 2 * 8 + 2 * 4 + 4 * 16)
    assert memory["activations of a micro-batch"] == (121 * 14 + 8 * 9) * kept
    assert memory["logits of a chunk"] == 3 * 4 * (121 * 14 * 50) + 50 * 8 * 4
    assert memory["pass before the updates"] == 256 * 23 * 4 * (3 * 8 + 3 * 16)
    # two layers' keys and values of 4 numbers, for 23 tokens of 256 rows; logits three times
    assert memory["keys and values while sampling"] == 256 * (2 * 2 * 4 * 4 * 23 + 3 * 4 * 50)
    kept = 3 * (weights + own) + weights
    update = weights + own + memory["activations of a micro-batch"] + memory["logits of a chunk"]
    others = [memory[name] for name in ("pass before the updates", "keys and values while sampling")]
    assert memory["at the peak"] == kept + max(update, *others)


def test_on_a_gpu_a_cache_has_room_to_grow_and_autocast_halves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelDimensions(1000, 2, 8, 16, 8, 4, 50, 4)
    monkeypatch.setattr("harness.trainers.dry_run.pick_device", lambda _: "cuda:0")
    for precision, number_bytes in (("float32", 4), ("bfloat16", 2)):
        config = recipe("countdown-flowrl", loop={"precision": precision})
        memory = estimate_memory(config, model, n_own=10, has_reference=True, **LENGTHS)
        cache = 1.5 * 2 * 2 * 4 * number_bytes * 23
        assert memory["keys and values while sampling"] == 256 * (cache + 3 * 4 * 50)


def test_an_engine_with_a_copy_of_the_weights_is_counted_with_one_completion() -> None:
    model = ModelDimensions(1000, 2, 8, 16, 8, 4, 50, 4)
    config = recipe("countdown-flowrl", loop={"precision": "bfloat16"})
    lengths = {"prompt_tokens": 9, "max_tokens": 14, "rows_at_once": None}
    own, copy = (
        estimate_memory(config, model, n_own=10, has_reference=True, **lengths, engine_has_copy=has_copy)
        for has_copy in (False, True)
    )
    assert own["keys and values while sampling"] == 0
    assert copy["keys and values while sampling"] == 2 * 2 * 4 * 2 * 23 + 3 * 4 * 50
    assert copy["weights of the engine"] == 2000
    assert copy["at the peak"] == own["at the peak"] + 2000, "the peak is that of the update"


def test_checkpointing_keeps_layer_inputs_and_autocast_halves_the_mlp() -> None:
    model = ModelDimensions(1000, 2, 8, 16, 8, 4, 50, 4)

    def activations(**loop: Any) -> int:
        config = recipe("countdown-flowrl", loop=loop)
        memory = estimate_memory(config, model, n_own=10, has_reference=True, **LENGTHS)
        return memory["activations of a micro-batch"]

    attention, mlp = 4 * (6 * 8 + 2 * 8 + 2 * 4), 4 * 16
    shared = 121 * 14 + 8 * 9
    assert activations(gradient_checkpointing=True) == 121 * 23 * (attention + 4 * mlp + 2 * 8 * 4)
    assert activations(precision="bfloat16") == shared * 2 * (attention + 2 * mlp) + 2 * 1000
    assert activations(compile=True) == 121 * 23 * 2 * (attention + 4 * mlp)


@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")])
def test_memory_estimate_has_gradients_of_adapters_alone_and_no_reference_copy(targets: tuple[str, ...]) -> None:
    lora = LoraConfig(rank=4, target_modules=targets)
    model = dimensions_of(ModelSource(resolve("countdown-tiny"), dtype="float32"), lora)
    # of each layer: q, k, v and o are 96 x 96; gate, up and down 96 x 256
    adapters = 3 * 4 * (2 * 96 + 96 + 256 if targets else 4 * 2 * 96 + 3 * (96 + 256))
    assert model.n_adapters == adapters
    for reset, copies in ((0, 0), (1, 1)):
        config = recipe("countdown-flowrl", reference={"reset_every_steps": reset})
        memory = estimate_memory(config, model, n_own=10, has_reference=True, **LENGTHS)
        assert memory["weights"] == 4 * (model.n_parameters + adapters + 10)
        assert memory["gradients"] == 4 * (adapters + 10)
        assert memory["optimiser states"] == 8 * (adapters + 10)
        assert memory["reference"] == 4 * adapters * copies


def test_a_dry_run_counts_adapters_and_remarks_that_compilation_is_not_counted() -> None:
    changes = {"lora": {"rank": 4}, "loop": {"precision": "bfloat16", "compile": True}}
    adapted, plain = dry_run_of("countdown-grpo", **changes), dry_run_of("countdown-grpo")
    assert adapted.memory["gradients"] < 0.2 * plain.memory["gradients"]
    (remark,) = adapted.remarks
    assert remark.startswith("The estimate is that without loop.compile")
    assert plain.remarks == ()


def test_an_engine_with_memory_of_its_own_is_not_in_the_estimate() -> None:
    scripted = dry_run_of("countdown-grpo", engine={"id": "scripted"})
    assert scripted.memory["keys and values while sampling"] == 0
    assert scripted.remarks == ("The estimate does not include the memory of the engine 'scripted'.",)


WIDE = {"num_hidden_layers": 6, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
VOCABULARY = {"vocab_size": 32_000}
LONGER = {"max_position_embeddings": 512}
MANY_KEYS = LONGER | {"num_key_value_heads": 4}
LORA, BFLOAT16 = {"lora": {"rank": 8}}, {"loop": {"precision": "bfloat16"}}
CHECKPOINTING = {"loop": {"gradient_checkpointing": True}}
SHAPES = {
    "flowrl": ("flowrl", {}, {}),
    "grpo": ("grpo", {}, {}),
    "checkpointing": ("flowrl", CHECKPOINTING, {}),
    "bfloat16": ("grpo", BFLOAT16, {}),
    "lora": ("grpo", LORA, {}),
    "lora checkpointing": ("grpo", LORA | CHECKPOINTING, {}),
    "lora bfloat16": ("flowrl", LORA | BFLOAT16, {}),
    "wide grpo": ("grpo", {}, WIDE),
    "wide flowrl": ("flowrl", {}, WIDE),
    "wide checkpointing": ("flowrl", CHECKPOINTING, WIDE),
    "wide bfloat16": ("grpo", BFLOAT16, WIDE),
    "wide lora": ("grpo", LORA, WIDE),
    "vocabulary grpo": ("grpo", {}, VOCABULARY),
    "vocabulary flowrl": ("flowrl", {}, VOCABULARY),
    "vocabulary bfloat16": ("grpo", BFLOAT16, VOCABULARY),
    "200 tokens": ("grpo", {"sampling": {"max_tokens": 200}}, LONGER),
    "300 tokens bfloat16": ("grpo", {"sampling": {"max_tokens": 300}} | BFLOAT16, LONGER),
    "400 tokens flowrl": ("flowrl", {"sampling": {"max_tokens": 400}}, MANY_KEYS),
}
"""The shapes of the table in docs/explanations/training.md: recipe, its changes, and those of the model's config."""


@pytest.mark.parametrize(
    "shape", [name if name == "flowrl" else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
)
def test_the_estimate_is_within_a_factor_of_the_measured_peak(shape: str, tmp_path: Path) -> None:
    method, changes, model = SHAPES[shape]
    loop = {"steps": 2, "prompts_per_step": 16, "samples_per_prompt": 8, "minibatches_per_step": 1}
    loop |= {"tokens_per_microbatch": 5000}
    changes = configs.merge({"loop": loop, "sampling": {"max_tokens": 32}}, changes)
    program = Path(__file__).parents[1] / "support" / "measured_peak.py"
    # Each freed tensor goes back to the system at once, so that the peak is that of tensors in use.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, **allocator, "OMP_NUM_THREADS": "1"}
    arguments = [str(tmp_path / "run"), f"countdown-{method}", json.dumps(changes), json.dumps(model)]
    done = subprocess.run([sys.executable, str(program), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout.splitlines()[-1])
    ratio = sizes["estimate"] / sizes["measured"]
    print(f"estimate / measured = {ratio:.2f}: {shape}")  # `pytest -rP` shows it
    assert 1 / 1.5 < ratio < 1.5, sizes


def limit_memory(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Give the device this share of the estimate of countdown-flowrl."""
    needed = dry_run_of("countdown-flowrl").memory["at the peak"]
    monkeypatch.setattr("harness.trainers.dry_run.available_bytes", lambda _: int(share * needed))


@pytest.mark.parametrize(
    ("share", "verdict", "is_refused"),
    [(1.01, None, False), (0.99, "MAY NOT FIT", False), (0.66, "DOES NOT FIT", True)],
)
def test_a_batch_that_does_not_fit_is_refused_above_the_error_of_the_estimate(
    share: float, verdict: str | None, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, share)
    estimate = dry_run_of("countdown-flowrl")
    assert estimate.is_refused == is_refused
    if verdict is None:
        assert estimate.shortage is None
    else:
        assert estimate.shortage.startswith(verdict)
        assert "lower loop.tokens_per_microbatch" in estimate.shortage
        smaller = {"loop": {"tokens_per_microbatch": 200}, "engine": {"batch_rows": 32}}
        assert dry_run_of("countdown-flowrl", **smaller).shortage is None


def test_a_model_that_does_not_fit_has_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.trainers.dry_run.available_bytes", lambda _: 1_000_000)
    assert "too large to be trained here at all" in dry_run_of("countdown-flowrl").shortage


def test_dry_run_and_run_refuse_too_little_memory_with_the_same_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    limit_memory(monkeypatch, 0.5)
    words = ["train", "countdown-flowrl", "--out", str(tmp_path / "run")]
    assert main([*words, "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert "# DOES NOT FIT: about 0.0" in printed.out and "[model]" in printed.out
    assert main(words) == 2
    assert capsys.readouterr().err == printed.err
    assert printed.err.startswith("harness: DOES NOT FIT") and "--ignore-memory" in printed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("share", "flags", "verdict"), [(0.9, [], "MAY NOT FIT"), (0.5, ["--ignore-memory"], "DOES NOT FIT")]
)
def test_a_run_with_little_memory_starts_with_a_warning(
    share: float,
    flags: list[str],
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    limit_memory(monkeypatch, share)
    words = ["train", "countdown-flowrl", "--set", "loop.steps=1", *flags]
    assert main([*words, "--dry-run"]) == 0
    assert f"warning: {verdict}" in capsys.readouterr().err
    assert main([*words, "--quiet", "--out", str(tmp_path / "run")]) == 0
    assert f"warning: {verdict}" in capsys.readouterr().err


def test_sequences_longer_than_a_micro_batch_or_the_model_are_remarked() -> None:
    short = dry_run_of("countdown-grpo", loop={"tokens_per_microbatch": 20}).remarks
    assert any("may have 23 tokens" in remark for remark in short)
    long = dry_run_of("countdown-grpo", sampling={"max_tokens": 60}).remarks
    assert any("69 tokens, and the model was made for 64" in remark for remark in long)


def test_the_objectives_warnings_come_before_the_remarks() -> None:
    config = recipe("countdown-grpo", loop={"compile": True})
    setup = dataclasses.replace(build_setup(config, Path("no-such-run")), warnings=("objective: a warning",))
    remarks = dry_run(config, setup).remarks
    assert remarks[0] == "objective: a warning"
    assert remarks[1].startswith("The estimate is that without loop.compile")


@pytest.mark.parametrize(
    ("name", "billions", "cards"),
    [("flowrl-math-7b", 7.616, 3), ("grpo-code-7b", 7.616, 3), ("flowrl-math-32b", 32.764, 11)],
)
def test_dry_run_of_a_published_recipe_counts_cards_without_the_model(name: str, billions: float, cards: int) -> None:
    estimate = dry_run_of(name)
    own = 4 * 25.7e6 if billions < 10 else 4 * 52.5e6  # FlowRL's head for log Z
    assert estimate.memory["weights"] == pytest.approx(4e9 * billions + own * ("flowrl" in name), rel=1e-3)
    assert estimate.memory["weights of the engine"] == pytest.approx(2e9 * billions, rel=1e-3)
    assert estimate.counts["tokens of the longest sequence"] == 2048 + 8192
    assert any("is not on this machine" in remark for remark in estimate.remarks)
    assert any(f"at least {cards} cards of 80 GB. This loop uses one device" in remark for remark in estimate.remarks)
    assert estimate.is_refused


def test_dry_run_without_the_model_keeps_the_batch_counts() -> None:
    away = dry_run_of("countdown-grpo", model={"path": "someone/something"})
    assert away.counts["sequences a step"] == 256
    assert away.memory == {}
    assert "No memory estimate" in away.remarks[0]


def test_dry_run_refuses_configs_that_a_run_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
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
