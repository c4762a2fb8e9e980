"""Memory of the loss alone: log-probabilities from hidden states with gradients, ours against plain torch.

    python bench/loss_memory.py

Each figure is from a separate process: its peak of resident memory (VmHWM) less the resident memory before the loss,
without hidden states, weight and their gradients. `plain` is torch's own `log_softmax` of all logits. A size that would
take more than `--most-gb` is skipped, and the size of three tensors of logits is printed in its place.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

VOCABULARIES, TOKENS, HIDDEN = (32_000, 152_000), (2_048, 16_384), 64
PLAIN_TENSORS = 3  # logits, their log-softmax, and its gradient


def resident_bytes(what: str) -> int:
    """Return VmRSS (now) or VmHWM (peak); `ru_maxrss` would start with the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def measure(side: str, vocabulary: int, n_tokens: int, *, with_entropy: bool) -> float:
    """Return MB."""
    import torch

    from harness.trainers.policy.model import Head, token_logp

    def loss_of(hidden: Any, weight: Any, ids: Any) -> Any:
        if side == "ours":
            logp, entropy = token_logp(Head(weight, None), hidden, ids, with_entropy=with_entropy)
        else:
            every = torch.log_softmax(hidden @ weight.T, -1)
            logp = every.gather(-1, ids[:, None])[:, 0]
            entropy = -(every.exp() * every).sum(-1) if with_entropy else None
        return logp.mean() + (entropy.mean() if entropy is not None else 0)

    torch.manual_seed(0)
    few = [torch.randn(8, HIDDEN, requires_grad=True) for _ in range(2)]
    loss_of(*few, torch.arange(8)).backward()  # allocated by the libraries
    hidden = torch.randn(n_tokens, HIDDEN, requires_grad=True)
    weight = torch.randn(vocabulary, HIDDEN, requires_grad=True)
    ids = torch.randint(0, vocabulary, (n_tokens,))
    hidden.grad, weight.grad = torch.ones_like(hidden), torch.ones_like(weight)
    before = resident_bytes("VmRSS")
    loss_of(hidden, weight, ids).backward()
    return (resident_bytes("VmHWM") - before) / 1e6


def printed(side: str, vocabulary: int, n_tokens: int, most_gb: float, *, with_entropy: bool) -> str:
    by_size = PLAIN_TENSORS * 4 * vocabulary * n_tokens / 1e9
    if side == "plain" and by_size > most_gb:
        return f"not tried ({by_size:.0f} GB by size)"
    command = [sys.executable, __file__, "--side", side, "--size", str(vocabulary), str(n_tokens)]
    command += ["--entropy"] if with_entropy else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return f"{float(done.stdout):,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most-gb", type=float, default=4.0)
    parser.add_argument("--entropy", action="store_true", help="the entropy of each distribution as well")
    parser.add_argument("--side", choices=("ours", "plain"))
    parser.add_argument("--size", type=int, nargs=2, metavar=("VOCABULARY", "TOKENS"))
    options = parser.parse_args()
    if options.side is not None:
        print(measure(options.side, *options.size, with_entropy=options.entropy))
        return
    for vocabulary, n_tokens in itertools.product(VOCABULARIES, TOKENS):
        found = {
            side: printed(side, vocabulary, n_tokens, options.most_gb, with_entropy=options.entropy)
            for side in ("ours", "plain")
        }
        print(f"vocabulary {vocabulary:,}, {n_tokens:,} tokens: ours {found['ours']}, plain {found['plain']}")


if __name__ == "__main__":
    main()
