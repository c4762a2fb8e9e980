"""countdown-tiny as a model with attention heads of 32: the same function, in a shape that vLLM on a processor takes.

Its kernels know heads of 32, 64, 80 and more, and the bundled model has heads of 24. Every width grows by a third,
with zeros. What the width is part of is put right: the sizes in RMSNorm (its weights and epsilon), the divisor of the
attention scores (the queries), and the angles of the rotary embedding (its base).

    python tests/support/wide_heads.py FOLDER
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from harness.models.loading import BUNDLED

NARROW, WIDE, HEADS = 24, 32, 4
GROWN = WIDE / NARROW


def write_wide_model(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    bundled = BUNDLED / "countdown-tiny"
    shutil.copytree(bundled, folder, dirs_exist_ok=True)
    config = json.loads((bundled / "config.json").read_text())
    config["hidden_size"] = HEADS * WIDE
    config["rms_norm_eps"] /= GROWN
    config["rope_parameters"]["rope_theta"] **= GROWN
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tensors = load_file(bundled / "model.safetensors")
    wide = {name: _widened(name, tensor).contiguous() for name, tensor in tensors.items()}
    save_file(wide, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _widened(name: str, tensor: Any) -> Any:
    if "norm" in name:
        return _padded(tensor, 0, HEADS * WIDE) / math.sqrt(GROWN)
    if "embed_tokens" in name or "gate_proj" in name or "up_proj" in name:
        return _padded(tensor, 1, HEADS * WIDE)
    if "down_proj" in name:
        return _padded(tensor, 0, HEADS * WIDE)
    if "o_proj" in name:
        return _padded(_wide_heads(tensor.T, halves=1).T, 0, HEADS * WIDE)
    if tensor.dim() == 2:
        tensor = _padded(tensor, 1, HEADS * WIDE)
    # Rotary embedding pairs the first half of a head with the second, so each half is padded by itself.
    wide = _wide_heads(tensor, halves=1 if "v_proj" in name else 2)
    return wide * math.sqrt(GROWN) if "q_proj" in name else wide


def _wide_heads(tensor: Any, halves: int) -> Any:
    parts = tensor.reshape(HEADS * halves, NARROW // halves, *tensor.shape[1:])
    return _padded(parts, 1, WIDE // halves).reshape(HEADS * WIDE, *tensor.shape[1:])


def _padded(tensor: Any, dimension: int, size: int) -> Any:
    grown = tensor.new_zeros([size if i == dimension else n for i, n in enumerate(tensor.shape)])
    grown.narrow(dimension, 0, tensor.shape[dimension]).copy_(tensor)
    return grown


if __name__ == "__main__":
    write_wide_model(Path(sys.argv[1]))
