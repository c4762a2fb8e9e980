"""Log-probs of a large vocabulary by the size of their chunks: forward and backward, alternating, in CPU seconds.

    python bench/logprob_chunks.py --rows 27 112 441

540 tokens, width 896, vocabulary 151,936 (the output layer of Qwen2.5-0.5B), float32, one thread. A chunk is the number
of tokens whose logits are in memory at once; `harness.trainers.policy.model.chunk_rows` chooses it by bytes and device.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from harness.trainers.policy import model

TOKENS, WIDTH, VOCABULARY = 540, 896, 151_936


def measure(weight: torch.Tensor, hidden: torch.Tensor, ids: torch.Tensor, n_rows: int) -> float:
    """Return the CPU seconds of one forward and backward pass with chunks of `n_rows`."""
    chosen = model.chunk_rows
    model.chunk_rows = lambda *_: n_rows
    try:
        began_s = time.process_time()
        logp, _ = model.token_logp(model.Head(weight, None), hidden, ids)
        logp.mean().backward()
        return time.process_time() - began_s
    finally:
        model.chunk_rows = chosen
        weight.grad = hidden.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ours = model.chunk_rows(VOCABULARY, WIDTH, "cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[27, ours], help=f"rows of a chunk (ours: {ours})")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    weight = torch.randn(VOCABULARY, WIDTH).mul_(0.02).requires_grad_()
    hidden = torch.randn(TOKENS, WIDTH).requires_grad_()
    ids = torch.randint(VOCABULARY, (TOKENS,))
    measured = {n_rows: list[float]() for n_rows in options.rows}
    for _ in range(options.rounds):
        for n_rows, seconds in measured.items():
            seconds.append(measure(weight, hidden, ids, n_rows))
    for n_rows, seconds in measured.items():
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{n_rows} rows: median {middle:.2f} CPU s, {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
