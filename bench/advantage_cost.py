"""The cost of each advantage as a share of a training step, in CPU seconds of one process.

    harness train countdown-remax --rollouts-only --set loop.steps=1 --out runs/rollouts
    python bench/advantage_cost.py runs/rollouts

The step is the update of countdown-grpo, without sampling, on the same rollouts. Every advantage runs
on the completions of that step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.config import parse_plugin
from harness.core.progress import Progress
from harness.core.recipes import recipes
from harness.core.registry import entries
from harness.core.tensors import PolicyOutputs
from harness.trainers.batch import collate
from harness.trainers.config import TrainConfig
from harness.trainers.saved_rollouts import RolloutFile
from harness.trainers.train import train

REPEATS = 50


def cpu_s(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def step_s(rollouts: str) -> float:
    """Return the CPU seconds of one step: of a run with two epochs less one with one, which loads the same."""

    def run(epochs: int) -> float:
        changes = {"loop": {"steps": 1, "epochs": epochs}, "rollouts": {"source": rollouts}}
        config = configs.parse(TrainConfig, configs.merge(configs.read_toml(recipes()["countdown-grpo"]), changes))
        with tempfile.TemporaryDirectory() as folder:
            return cpu_s(lambda: train(config, Path(folder) / "run", Progress(quiet=True)))

    run(1)  # imports
    return statistics.median(run(2) - run(1) for _ in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rollouts")
    asked = parser.parse_args()
    step = step_s(asked.rollouts)
    rollouts, _ = RolloutFile(asked.rollouts).read(1)
    batch = collate(rollouts.chosen, "cpu", needs=frozenset({"solution_classes"}))
    assert batch.logp_behaviour is not None
    old = PolicyOutputs(logp=batch.logp_behaviour)
    print(f"{len(batch.rewards)} completions; the updates of a step: {step:.2f} CPU s")
    for advantage_id in entries("advantages"):
        advantage = parse_plugin("advantages", advantage_id).build()
        advantage.compute(batch, old)
        taken = cpu_s(lambda: [advantage.compute(batch, old) for _ in range(REPEATS)]) / REPEATS  # noqa: B023
        print(f"{advantage_id:15} {1e3 * taken:7.2f} ms {taken / step:8.3%}")


if __name__ == "__main__":
    main()
