"""FlowRL's cost against GRPO: the workload of `train_step.py` under three losses, alternating, in CPU seconds.

    python bench/flowrl_overhead.py --rounds 3

`grpo` has no reference; `grpo with a reference` has a KL to it (`kl_beta` = 0.04), and so one more forward pass;
`flowrl` is the recipe as in verl: a learned log Z on the prompt's hidden states, a capped importance weight, the same
reference. Its overhead is its CPU time divided by that of GRPO with the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from train_step import GRPO, WARM_UP, measure_ours

LOSSES: dict[str, dict[str, Any]] = {
    "grpo": GRPO,
    "grpo with a reference": {**GRPO, "kl_beta": 0.04},
    "flowrl": {"id": "flowrl_recipe"},
}


def cpu_s(loss: str) -> float:
    """Return the median step of a separate process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--loss", loss]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{loss} failed:\n{done.stderr[-3000:]}")
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loss", choices=LOSSES)
    options = parser.parse_args()
    if options.loss is not None:
        print(json.dumps([row["cpu_s"] for row in measure_ours("float32", LOSSES[options.loss])[WARM_UP:]]))
        return
    overheads = []
    for number in range(options.rounds):
        found = {loss: cpu_s(loss) for loss in LOSSES}
        overheads.append(found["flowrl"] / found["grpo with a reference"] - 1)
        print(f"round {number + 1}, CPU-s a step: " + ", ".join(f"{loss} {took:.2f}" for loss, took in found.items()))
    printed = [f"{overhead:+.1%}" for overhead in (statistics.median(overheads), min(overheads), max(overheads))]
    print("flowrl over grpo with a reference: median {}, min {}, max {}".format(*printed))


if __name__ == "__main__":
    main()
