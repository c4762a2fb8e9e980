"""A forecast and what the run took, in a process of its own: `measured_peak.py FOLDER CHANGES` prints both in bytes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from harness.core import config as configs
from harness.core.models import resolve
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.trainers.forecast import forecast
from harness.trainers.run import parts_of, train
from harness.trainers.settings import TrainConfig

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["full_attention"] * 4,
    "max_position_embeddings": 128,
}


def make_model(folder: Path) -> None:
    """The bundled model's tokenizer, and a shape large enough to be seen beside the libraries."""
    bundled = Path(resolve("countdown-tiny"))
    folder.mkdir(parents=True)
    for path in bundled.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, folder)
    tiny = json.loads((bundled / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tiny, **SHAPE}))


def resident_bytes(what: str) -> int:
    """VmRSS is now and VmHWM the most so far. `getrusage` would tell the parent's where that was more."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    make_model(folder / "model")
    model = {"path": str(folder / "model"), "weights": "random"}
    tree = configs.merge(configs.read_toml(find_config("countdown-flowrl")), {"model": model}, changes)
    config = configs.parse(TrainConfig, tree)
    told = forecast(config, parts_of(config, folder / "run")).memory["at the peak"]
    before = resident_bytes("VmRSS")
    train(config, folder / "run", Progress(quiet=True))
    print(json.dumps({"forecast": told, "measured": resident_bytes("VmHWM") - before}))
