"""Checkpoints of adapters that a server trained, as Hugging Face folders.

The archive of a server has `adapter_config.json` and `adapter_model.safetensors`. SkyRL writes no target modules into
the former, and peft then adapts fewer layers than there are in the latter, without a word. So they are named here.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from harness.core.errors import RunError
from harness.core.protocols import ModelSource
from harness.models.loading import load_config, load_module
from harness.trainers.config import LoraConfig
from harness.trainers.policy.lora import ADAPTER_FOLDER, Adapters

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALPHA = 32.0
"""The scale of every server: `LoraConfig.alpha` can't be chosen."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_checkpoint(folder: Path, archive: bytes, base: ModelSource, *, is_merged: bool) -> None:
    """Save the adapters in `adapter/`, and with the base model's weights on this machine the merged model."""
    own = folder / ADAPTER_FOLDER
    own.mkdir()
    saved, weights = _unpacked(archive)
    (own / _WEIGHTS).write_bytes(weights)
    if not is_merged:
        settings = {**saved, "target_modules": list(PROJECTIONS), "base_model_name_or_path": base.path}
        (own / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
        load_config(base).save_pretrained(folder)
        return
    config = LoraConfig(rank=int(saved["r"]), alpha=float(saved["lora_alpha"]), target_modules=PROJECTIONS)
    adapters = Adapters(load_module(base), config, 0, base.path)
    adapters.load(folder)
    adapters.save_pretrained(folder)


def _unpacked(archive: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the settings and the weights in an archive; nothing else in it is read, and nothing is extracted."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:*") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in (_CONFIG, _WEIGHTS) and (file := tar.extractfile(member)) is not None:
                    found[name] = file.read()
        return json.loads(found[_CONFIG]), found[_WEIGHTS]
    except (tarfile.TarError, KeyError, ValueError, EOFError, OSError) as error:
        raise RunError(
            f"the server's archive of the adapters can't be read ({type(error).__name__}: {error}); the same command "
            "goes on from the newest checkpoint"
        ) from None
