"""The covariance of advantage and log-probability by token, which Clip-Cov and KL-Cov choose tokens by.

It is short because it holds the one quantity that the two share.
"""

from __future__ import annotations

from torch import Tensor

from harness.trainers.functional import by_token


def token_covariance(advantages: Tensor, logp: Tensor, completion_mask: Tensor) -> Tensor:
    """Return (A - mean A) (log p - mean log p), means over all tokens; arXiv 2505.22617. (B,) or (B, T) -> (B, T)"""
    of_tokens = by_token(advantages).expand(logp.shape)
    return (of_tokens - of_tokens[completion_mask].mean()) * (logp - logp[completion_mask].mean())


def n_marked(share: float, completion_mask: Tensor) -> int:
    """Return how many tokens are a share of all, at least one."""
    return max(1, int(share * int(completion_mask.sum())))
