"""The memory estimate of a dry run and the peak of the same run, in a process of its own.

`measured_peak.py FOLDER RECIPE CHANGES SHAPE` prints both in bytes, as JSON. CHANGES are changes of the recipe and
SHAPE those of the model's config, both JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.engines.hf import HuggingFaceEngine
from harness.models.loading import resolve
from harness.trainers.config import TrainConfig
from harness.trainers.dry_run import dry_run
from harness.trainers.setup import build_setup
from harness.trainers.train import train

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def make_model(folder: Path, shape: dict[str, int]) -> None:
    """Write the bundled model's tokenizer next to a config whose memory stands out against that of the libraries."""
    bundled = Path(resolve("countdown-tiny"))
    folder.mkdir(parents=True)
    for path in bundled.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, folder)
    config = json.loads((bundled / "config.json").read_text()) | SHAPE | shape
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))


def resident_bytes(name: str) -> int:
    """Return VmRSS (resident now) or VmHWM (the peak so far); `getrusage` may return the parent's peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def parse(tree: configs.Tree, model: str) -> TrainConfig:
    return configs.parse(TrainConfig, configs.merge(tree, {"model": {"path": model}}))


def main(folder: Path, recipe: str, changes: str, shape: str) -> None:
    torch.set_num_threads(1)
    # The estimate is for completions that all reach the limit of tokens.
    HuggingFaceEngine._end_test = lambda *_: lambda _: False  # type: ignore[method-assign]
    make_model(folder / "model", json.loads(shape))
    tree = configs.merge(configs.read_toml(find_config(recipe)), json.loads(changes), {"model": {"weights": "random"}})
    # The bundled model first: the run that is measured finds every library loaded.
    first = configs.merge(tree, {"sampling": {"max_tokens": 16}})
    train(parse(first, "countdown-tiny"), folder / "first", Progress(quiet=True))
    config = parse(tree, str(folder / "model"))
    memory = dry_run(config, build_setup(config, folder / "run")).memory
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is now the size now
    before = resident_bytes("VmRSS")
    train(config, folder / "run", Progress(quiet=True))
    peak = resident_bytes("VmHWM") - before
    print(json.dumps({"estimate": memory["at the peak"], "measured": peak, "parts": memory}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
