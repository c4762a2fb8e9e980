"""The cost of our losses on a Tinker server next to the server's own: CPU seconds of server and client, and wall time.

python bench/tinker_overhead.py --url http://127.0.0.1:8000 --model FOLDER --server-pid PID

A built-in loss is one pass with its gradient. Ours is a pass for log-probs, the loss here, and the same pass with its
gradient. Both end with an optimiser step. PID is the process of the engine (`skyrl.tinker.engine`), on this machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import torch

from harness.core import config as configs
from harness.core.protocols import ModelSource
from harness.core.recipes import find_config
from harness.core.tensors import Batch, Totals
from harness.models.tinker_server import Server
from harness.trainers.backends.tinker.optimizer import TinkerOptimizer
from harness.trainers.backends.tinker.policy import RemoteWeights, TinkerPolicy
from harness.trainers.backends.tinker.requests import datum, sequences_of
from harness.trainers.config import TrainConfig


def make_batch(n: int, n_prompt: int, n_completion: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((n,), n_completion)
    return Batch(
        sequence_ids=torch.randint(3, 110, (n, n_prompt + n_completion), generator=generator),
        prompt_lengths=torch.full((n,), n_prompt),
        completion_lengths=lengths,
        completion_mask=torch.ones(n, n_completion, dtype=torch.bool),
        logp_behaviour=None,
        rewards=torch.rand(n, generator=generator),
        group_ids=torch.arange(n) // 8,
        totals=Totals(n, n * n_completion),
    )


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and of this one."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the cost of our losses on a Tinker server.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    server = Server(args.url, timeout_s=900, dead_after_s=60)
    client = server.create(args.model, 8, seed=0)
    config = configs.parse(TrainConfig, configs.read_toml(find_config("countdown-grpo")))
    objective = config.objective.build()
    policy = TinkerPolicy(RemoteWeights(server, client, keep=1), ModelSource(args.model), False)
    optimizer = TinkerOptimizer(policy, objective, config.optimizer, "mean_of_means")
    batch = make_batch(args.sequences, 20, 40)

    def ours() -> None:
        optimizer.zero_grad()
        current = policy.forward(batch, frozenset())
        old = type(current)(logp=current.logp.detach())
        objective.loss(batch, current, old, objective.advantages(batch, old)).loss.backward()
        optimizer.push()

    def built_in() -> None:
        n = batch.sequence_ids.shape[1] - 1
        data = [datum(tokens, logprobs=[-1.0] * n, advantages=[1.0] * n) for tokens in sequences_of(batch)]
        passed = client.forward_backward(data, "importance_sampling")
        stepped = client.optim_step(optimizer._adam_params())
        server.wait(passed, "a gradient")
        server.wait(stepped, "an optimiser step")

    rows: dict[str, list[tuple[float, float]]] = {"ours": [], "built-in": []}
    try:
        for number in range(args.rounds + 1):  # the first compiles
            for name, work in (("built-in", built_in), ("ours", ours)):
                wall, cpu = time.monotonic(), cpu_s(args.server_pid)
                work()
                if number:
                    rows[name].append((time.monotonic() - wall, cpu_s(args.server_pid) - cpu))
    finally:
        server.close()
    for i, unit in enumerate(("wall", "CPU")):
        medians = {name: statistics.median(row[i] for row in measured) for name, measured in rows.items()}
        ratio = statistics.median(a[i] / b[i] for a, b in zip(rows["ours"], rows["built-in"], strict=True))
        print(f"{unit}: built-in {medians['built-in']:.2f} s, ours {medians['ours']:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
