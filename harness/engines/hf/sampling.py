"""Draw tokens from logits with one counter-based uniform number for each token.

There is no generator and no state: the n-th token of a completion depends on its own logits and on (its seed, n), so
the rest of the batch matters only through the rounding of its logits.
"""

from __future__ import annotations

import math

import torch

from harness.core.types import Sampling

_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64, signed


def uniforms(seeds: torch.Tensor, positions: int | torch.Tensor) -> torch.Tensor:
    """Return a number in [0, 1) for each seed: the top 24 bits of splitmix64 of seed and position. (B,)"""
    z = seeds + (torch.as_tensor(positions, device=seeds.device) + 1) * _GOLDEN  # modulo 2**64
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _MIX_1
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    z = z ^ ((z >> 31) & 0x1FFFFFFFF)
    return ((z >> 40) & 0xFFFFFF).to(torch.float32) / 2**24


def draw(
    logits: torch.Tensor, seeds: torch.Tensor, positions: int | torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and their log-probabilities under the distribution they were drawn from.

    (B, V) -> (B,), (B,)
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return logits.argmax(-1), torch.zeros(len(logits), device=logits.device)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    logp = torch.log_softmax(keep_likely(logits, sampling), -1)
    cumulative = logp.exp().cumsum_(-1)
    # By inverse distribution: the first token whose cumulative probability passes the uniform. Scaling by the last
    # entry keeps rounding of the sum from pointing past the end or at a token of probability zero.
    thresholds = uniforms(seeds, positions)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, thresholds, right=True).clamp_(max=logits.shape[-1] - 1)
    return ids[:, 0], logp.gather(-1, ids)[:, 0]


def keep_likely(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Set the logits of tokens that `min_p`, `top_k` and `top_p` leave out to -inf, in vLLM's order. (B, V)"""
    if sampling.min_p > 0:
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(sampling.min_p), -torch.inf)
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1).roll(1, -1)
        before[:, 0] = 0  # the likeliest token always stays
        outside = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits
