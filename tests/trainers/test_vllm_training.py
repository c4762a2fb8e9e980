"""vllm as the engine of training: the weights it samples from are the policy's after every update."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training import assert_same_run, figures, recipe, run
from training_parts import tiny_tokenizer
from vllm_parts import assert_forced, opened, requests
from wide_heads import write_wide_model

from harness.core.errors import EngineError, ModelError
from harness.core.protocols import ModelSource
from harness.models.loading import load_module, resolve
from harness.trainers.config import LoraConfig, TrainConfig
from harness.trainers.policy.lora import Adapters
from harness.trainers.policy.model import Policy

pytest.importorskip("vllm", reason="vllm is not installed; `tox -e vllm-cpu` runs this")

# Mean and largest |log-probability of vLLM - of the trainer|, both in float32: measured at 3e-7 and 6e-6.
MEAN, LARGEST = 2e-6, 5e-5


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_model(tmp_path_factory.mktemp("wide"))


def with_vllm(wide: Path, **changes: Any) -> TrainConfig:
    engine = {"id": "vllm", "enforce_eager": True, "kv_cache_gib": 0.25, **changes.pop("engine", {})}
    return recipe("countdown-flowrl", model={"path": str(wide)}, engine=engine, **changes)


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 4}}], ids=["all weights", "adapters"])
def test_vllm_samples_from_the_new_weights_after_every_update(
    wide: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    rows = figures(run(with_vllm(wide, **changes), tmp_path / "run").folder)
    assert [row["weights_version"] for row in rows] == [0, 1, 2, 3]
    assert all(row["logp_gap"] < MEAN and row["logp_gap_max"] < LARGEST for row in rows)
    assert all(row["grad_norm"] > 0.1 for row in rows), "there were updates to follow"


def test_a_checkpoint_and_its_adapter_on_the_base_model_are_the_same_to_vllm(wide: Path, tmp_path: Path) -> None:
    run(with_vllm(wide, lora={"rank": 4}), tmp_path / "run")
    checkpoint = resolve(str(tmp_path / "run"))
    merged = load_module(ModelSource(checkpoint, device="cpu"))
    for path, adapter in ((checkpoint, None), (str(wide), f"{checkpoint}/adapter")):
        engine = opened(ModelSource(path, device="cpu"), lora=adapter)
        for completion in engine.generate(requests(3)):
            assert_forced(merged, completion, 1.0)
        engine.close()


def test_vllm_run_resumed_after_two_steps_equals_four_steps(wide: Path, tmp_path: Path) -> None:
    run(with_vllm(wide), tmp_path / "unbroken")
    run(with_vllm(wide, loop={"steps": 2}), tmp_path / "broken")
    run(with_vllm(wide), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_rollouts_alone_are_sampled_from_the_model_as_it_is(wide: Path, tmp_path: Path) -> None:
    loop = {"steps": 1}
    run(with_vllm(wide, loop=loop, rollouts={"only": True}), tmp_path / "rollouts")
    source = {"source": str(tmp_path / "rollouts")}
    (row,) = figures(run(with_vllm(wide, loop=loop, rollouts=source), tmp_path / "run").folder)
    assert row["on_policy"] == 1
    assert row["logp_gap"] < MEAN


def test_vllm_weights_that_do_not_arrive_stop_the_run(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engines.vllm import VllmEngine

    original = VllmEngine.load_weights

    def only_the_first(self: Any, tensors: Any, version: int) -> None:
        original(self, tensors, version) if version == 0 else setattr(self, "version", version)

    monkeypatch.setattr(VllmEngine, "load_weights", only_the_first)
    with pytest.raises(EngineError, match="samples from other weights"):
        run(with_vllm(wide), tmp_path / "run")
    assert len(figures(tmp_path / "run")) == 1


def test_vllm_computes_in_bfloat16_where_training_does(wide: Path, tmp_path: Path) -> None:
    loop = {"precision": "bfloat16", "steps": 2}
    for row in figures(run(with_vllm(wide, loop=loop), tmp_path / "run").folder):
        # measured at 0.006; float32 weights on the other side give 0.0015
        assert 0.003 < row["logp_gap"] < 0.02


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("rank", [0, 4])
def test_vllm_takes_policy_tensors_by_name(wide: Path, tmp_path: Path, is_tied: bool, rank: int) -> None:
    config = json.loads((wide / "config.json").read_text()) | {"tie_word_embeddings": is_tied}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = ModelSource(str(tmp_path), device="cpu", random_seed=3, tokenizer=tiny_tokenizer())
    module, same = load_module(source), load_module(source)
    adapters = Adapters(module, LoraConfig(rank=rank), 5, "base") if rank else None
    policy = Policy(module, 1.0, adapters=adapters)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    engine = opened(ModelSource(str(tmp_path), device="cpu", module=module, tokenizer=tiny_tokenizer()))
    with pytest.raises(EngineError, match="no weights to sample from"):
        next(engine.generate(requests(1)))
    engine.load_weights(policy.tensors(), version=1)
    same.load_state_dict(dict(policy.tensors()))
    for completion in engine.generate(requests(3)):
        assert_forced(same, completion, 1.0)
        assert_forced(module, completion, 1.0)
    engine.close()


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ({"lora": "folder"}, "leave it out"),
        ({"data_parallel": 2}, "data_parallel = 1"),
        ({"sleep_level": 2}, "can't sleep on this cpu"),
    ],
)
def test_vllm_settings_that_training_here_cannot_use_are_refused_first(
    wide: Path, tmp_path: Path, engine: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        run(with_vllm(wide, engine=engine), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("level", [1, 2])
def test_vllm_asleep_during_the_update_changes_nothing(wide: Path, tmp_path: Path, level: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    engine = {"gpu_memory_utilization": 0.3, "sleep_level": level}
    rows = figures(run(with_vllm(wide, engine=engine), tmp_path / "run").folder)
    assert [row["weights_version"] for row in rows] == [0, 1, 2, 3]
