"""verl's sharded checkpoint as a Hugging Face folder, in float32: verl's own merger rounds weights to bfloat16.

FSDP2 shards every tensor along its first axis, so that a tensor is its ranks' pieces one after the other. Files are
read as they are needed and written at 5 GB, so that a model need not fit into memory twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.core.errors import RunError
from harness.core.protocols import ModelSource
from harness.trainers.backends.verl.run import objective_file

FILE_BYTES = 5 * 10**9


@dataclass(frozen=True, slots=True)
class ShardedPolicy:
    """The actor of one checkpoint of verl, which `Checkpoints` saves like any policy."""

    base: ModelSource
    folder: Path
    """verl's folder of the actor, with one file of weights a process."""
    lora_alpha: float = 0.0

    def save_pretrained(self, target: Path) -> None:
        from transformers import AutoConfig, GenerationConfig

        config = AutoConfig.from_pretrained(self.base.path, trust_remote_code=self.base.trust_remote_code)
        config.dtype = "float32"
        config.save_pretrained(target)
        with contextlib.suppress(OSError):  # a model without one
            GenerationConfig.from_pretrained(self.base.path).save_pretrained(target)
        tied = {"lm_head.weight"} if config.get_text_config().tie_word_embeddings else set()
        merged = without_adapters(merged_tensors(shards_of(self.folder)), self.lora_alpha)
        write_safetensors(((name, tensor) for name, tensor in merged if name not in tied), target)

    def objective_state(self) -> Mapping[str, Any]:
        state: Mapping[str, Any] = torch.load(objective_file(self.folder), weights_only=True, map_location="cpu")
        return state


def shards_of(folder: Path) -> list[Mapping[str, Any]]:
    """Open the weights of every process, in the order of the ranks."""
    files = sorted(folder.glob("model_world_size_*_rank_*.pt"), key=lambda file: int(file.stem.rpartition("_")[2]))
    if not files:
        raise RunError(f"{folder} has no weights: verl's checkpoint is not complete")
    n_ranks = int(files[0].stem.split("_")[3])
    if len(files) != n_ranks:
        raise RunError(
            f"{folder} has the weights of {len(files)} of {n_ranks} processes: with several nodes the run folder must "
            "be on a disk that all of them share"
        )
    # verl's own file of this run: it holds DTensors, which torch only loads with their code.
    return [torch.load(file, map_location="cpu", weights_only=False, mmap=True) for file in files]


def merged_tensors(shards: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor whole, in float32."""
    for name, first in shards[0].items():
        pieces = [shard[name] for shard in shards]
        if not hasattr(first, "placements"):
            yield name, first.float()
            continue
        placement = first.placements[-1]
        if placement.is_replicate():
            yield name, first._local_tensor.float()
            continue
        if len(first.placements) > 1 or not placement.is_shard(0):
            raise RunError(f"{name} is sharded as {first.placements}, which FSDP2 over all GPUs does not do")
        whole = torch.cat([piece._local_tensor.float() for piece in pieces])
        if whole.shape != first.shape:
            raise RunError(f"{name} has the shape {tuple(whole.shape)} and should have {tuple(first.shape)}")
        yield name, whole


_PREFIX, _BASE, _A, _B = "base_model.model.", ".base_layer", ".lora_A.default.weight", ".lora_B.default.weight"


def without_adapters(tensors: Iterator[tuple[str, Tensor]], alpha: float) -> Iterator[tuple[str, Tensor]]:
    """Merge LoRA adapters into their layers: W + alpha / rank * B A. Without any, nothing changes."""
    waiting: dict[str, dict[str, Tensor]] = {}
    for long_name, tensor in tensors:
        name = long_name.removeprefix(_PREFIX)
        layer = next((name.removesuffix(end) for end in (f"{_BASE}.weight", _A, _B) if name.endswith(end)), None)
        if layer is None:
            yield name.replace(_BASE, ""), tensor
            continue
        parts = waiting.setdefault(layer, {})
        parts["A" if name.endswith(_A) else "B" if name.endswith(_B) else "W"] = tensor
        if len(parts) == 3:
            del waiting[layer]
            yield f"{layer}.weight", parts["W"] + alpha / parts["A"].shape[0] * (parts["B"] @ parts["A"])
    if waiting:
        raise RunError(f"the checkpoint lacks a part of the adapters of {', '.join(list(waiting)[:3])}")


def write_safetensors(tensors: Iterator[tuple[str, Tensor]], folder: Path, file_bytes: int = FILE_BYTES) -> None:
    """Write one file, or several with an index, under the names that transformers reads."""
    parts: list[list[str]] = []
    waiting: dict[str, Tensor] = {}
    n_bytes = total = 0

    def write() -> None:
        save_file(waiting, folder / f"part-{len(parts)}.safetensors", metadata={"format": "pt"})
        parts.append(list(waiting))
        waiting.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if waiting and n_bytes + size > file_bytes:
            write()
            n_bytes = 0
        waiting[name] = tensor.contiguous()
        n_bytes, total = n_bytes + size, total + size
    write()
    if len(parts) == 1:
        (folder / "part-0.safetensors").rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for index, names in enumerate(parts):
        file = f"model-{index + 1:05d}-of-{len(parts):05d}.safetensors"
        (folder / f"part-{index}.safetensors").rename(folder / file)
        places |= dict.fromkeys(names, file)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
