"""Measure the engine ray: two replicas against one, and the driver's memory over many completions.

    python bench/ray_replicas.py speed            # an engine that waits, as one on a GPU; and hf, if two cores are free
    python bench/ray_replicas.py memory --n 1000000

The replicas are on this machine. Speed is the time of one replica over that of two in the same run, taken in turns; the
model is loaded before. Memory is the resident set of the driver, which counts completions and keeps none.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.config import parse_plugin
from harness.core.protocols import ModelSource
from harness.core.types import Message, Request, Sampling
from harness.models.loading import resolve

WAITING = '''
import time
from dataclasses import dataclass

from harness.engines.scripted import ScriptedEngine


class WaitingEngine(ScriptedEngine):
    """Takes a time for each completion without using a processor."""

    @dataclass(frozen=True, slots=True)
    class Config:
        replies: tuple[str, ...] = ("4*9=36",)
        pick: str = "index"
        each_s: float = 0.1

    def generate(self, requests):
        for completion in super().generate(requests):
            time.sleep(self.config.each_s)
            yield completion


ENGINE = WaitingEngine
'''


def requests_of(n: int) -> Iterator[Request]:
    how = Sampling(14)
    for number in range(n):
        problem, index = divmod(number, 16)
        yield Request(f"p{problem}", index, (Message("user", f"1 2 4 5 7 9 = {problem % 90 + 10} :"),), number, how)


def save_larger_model(folder: str) -> None:
    """Save a model with random weights whose replies take a core much longer than the driver, as real ones do."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    small = resolve("countdown-tiny")
    config = AutoConfig.from_pretrained(small)
    config.update({"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8})
    config.update({"num_key_value_heads": 8, "head_dim": 64, "layer_types": ["full_attention"] * 8})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small).save_pretrained(folder)


def opened(inner: dict[str, Any], replicas: int, model: str, **options: Any) -> Any:
    engine = parse_plugin("engines", {"id": "ray", "inner": inner, "replicas": replicas, **options}).build()
    engine.open(ModelSource(model))
    while engine._placing or engine._opening:  # all of them, so that loading is not measured
        engine._next_answer()
    return engine


def speed(inner: dict[str, Any], n: int, rounds: int, model: str) -> None:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for replicas, times in seconds.items():
            engine = opened(inner, replicas, model, num_cpus=0.5)
            list(engine.generate(requests_of(64)))  # the first call compiles and fills caches
            began_s = time.perf_counter()
            assert sum(1 for _ in engine.generate(requests_of(n))) == n
            times.append(time.perf_counter() - began_s)
            engine.close()
    one, two = (statistics.median(times) for times in seconds.values())
    print(
        f"{inner['id']}: {n} completions, one replica {one:.2f} s, two {two:.2f} s, ratio {one / two:.2f}", flush=True
    )


def memory(n: int) -> None:
    engine = opened({"id": "scripted", "replies": ["4*9=36;36+2=38"]}, 2, resolve("countdown-tiny"), num_cpus=0.5)
    began_s, marks = time.perf_counter(), {n // 10 * tenth for tenth in range(1, 11)}
    for number, _ in enumerate(engine.generate(requests_of(n)), start=1):
        if number in marks:
            gc.collect()
            each_us = 1e6 * (time.perf_counter() - began_s) / number
            print(f"{number:>9,} completions: {resident_bytes() / 1e6:.1f} MB, {each_us:.0f} us each", flush=True)
    engine.close()


def resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("--n", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hf", action="store_true", help="measure hf too, which needs two free cores")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        memory(arguments.n if arguments.n is not None else 1_000_000)
        return
    n = arguments.n if arguments.n is not None else 128
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "waiting.py").write_text(WAITING)
        speed({"id": f"{folder}/waiting.py"}, n, arguments.rounds, resolve("countdown-tiny"))
        if arguments.hf:
            save_larger_model(f"{folder}/model")
            speed({"id": "hf"}, 8 * n, arguments.rounds, f"{folder}/model")


if __name__ == "__main__":
    main()
