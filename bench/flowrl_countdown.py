"""A whole step of FlowRL against one of GRPO on countdown, sampling included, alternating, in CPU seconds.

    python bench/flowrl_countdown.py --rounds 3

Each side trains its recipe from the bundled model for a few steps and for more, in a process of its own with one
thread; the difference is the cost of the further steps, without starting and loading. `grpo with a KL` makes the
reference pass that FlowRL makes too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("countdown-grpo", {}),
    "grpo with a KL": ("countdown-grpo", {"kl_beta": 0.1}),
    "flowrl": ("countdown-flowrl", {}),
}
FEW, MORE = 4, 20


def step_s(arm: str) -> float:
    """Return the CPU seconds of a step, measured in this process."""
    from harness.core import config as configs
    from harness.core.progress import Progress
    from harness.core.recipes import find_config
    from harness.trainers.config import TrainConfig
    from harness.trainers.train import train

    recipe, options = ARMS[arm]
    taken = []
    for steps in (1, FEW, MORE):  # the first one warms up
        ours = {"loop": {"steps": steps}, "objective": options, "checkpoint": {"every_steps": MORE}}
        tree = configs.merge(configs.read_toml(find_config(recipe)), ours)
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            train(configs.parse(TrainConfig, tree), Path(folder) / "run", Progress(quiet=True))
            taken.append(time.process_time() - began)
    return (taken[-1] - taken[-2]) / (MORE - FEW)


def measured(arm: str) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--arm", arm]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=tuple(ARMS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm is not None:
        print(json.dumps(step_s(args.arm)))
        return
    rounds = [{arm: measured(arm) for arm in ARMS} for _ in range(args.rounds)]
    for arm in ARMS:
        ratios = [one[arm] / one["grpo"] for one in rounds]
        seconds, ends = statistics.median(one[arm] for one in rounds), f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{arm}: {seconds:.3f} CPU s a step, {statistics.median(ratios):.2f}x GRPO ({ends})")


if __name__ == "__main__":
    main()
