"""Log-probs of given tokens from hidden states, one chunk of rows at a time.

No tensor of (tokens, vocabulary) is larger than a chunk, forward or backward: with several chunks, the backward pass
computes the logits of each again instead of keeping them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LEAST_CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**28}


def chunk_rows(vocabulary: int, hidden: int, device_type: str) -> int:
    """Return the number of rows whose logits are in memory at once.

    A CPU computes from its cache and a GPU wants long kernels, so the smallest chunk depends on the device. It grows
    to an eighth of the output layer, because every chunk reads the layer and updates its gradient from memory.
    """
    least = _LEAST_CHUNK_BYTES.get(device_type, _LEAST_CHUNK_BYTES["cuda"])
    return max(1, least // (4 * vocabulary), hidden // 8)


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer of a model: from hidden states to logits."""

    weight: Tensor  # (V, H)
    bias: Tensor | None
    temperature: float = 1.0
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits in float32, divided by the sampling temperature. (N, H) -> (N, V)"""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits / self.temperature if self.temperature != 1 else logits

    def chunk_rows(self) -> int:
        vocabulary, hidden = self.weight.shape
        return chunk_rows(vocabulary, hidden, self.weight.device.type)


def token_logp(head: Head, hidden: Tensor, ids: Tensor, *, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the log-prob of each id, and the entropy of each distribution if asked for.

    (N, H), (N,) -> (N,), (N,) or None
    """
    arguments = (hidden, head.weight, head.bias, ids, head, with_entropy)
    logp, entropy = _ChunkedLogp.apply(*arguments)  # type: ignore[no-untyped-call]
    return logp, entropy if with_entropy else None


class _ChunkedLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, head: Head, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logp = hidden.new_empty(len(ids), dtype=torch.float32)
        entropy = torch.empty_like(logp) if with_entropy else logp.new_empty(0)
        chunks = list(_chunks(len(ids), head.chunk_rows()))
        for rows in chunks:
            normalised = torch.log_softmax(head.logits(hidden[rows]), -1)
            logp[rows] = normalised.gather(-1, ids[rows, None])[:, 0]
            if with_entropy:
                entropy[rows] = -(normalised.exp() * normalised).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, ids)
        ctx.head, ctx.with_entropy = head, with_entropy
        ctx.only_chunk = normalised if len(chunks) == 1 and head.softcap is None else None
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for rows in _chunks(len(ids), ctx.head.chunk_rows()):
            of_entropy = grad_entropy[rows] if ctx.with_entropy and grad_entropy.any() else None
            grad_logits = _grad_of_raw_logits(
                ctx.head, hidden[rows], ids[rows], grad_logp[rows], of_entropy, ctx.only_chunk
            )
            grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[rows])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _grad_of_raw_logits(
    head: Head, hidden: Tensor, ids: Tensor, grad_logp: Tensor, grad_entropy: Tensor | None, normalised: Tensor | None
) -> Tensor:
    """Return the gradient at the output of the linear layer, before scale, cap and temperature. (N, V)"""
    logits = head.logits(hidden) if normalised is None else normalised
    grad = logits.softmax(-1) if normalised is None else normalised.exp()
    towards_entropy = _grad_of_entropy(logits, grad, grad_entropy) if grad_entropy is not None else None
    grad = grad.mul_(-grad_logp[:, None]).scatter_add_(-1, ids[:, None], grad_logp[:, None])
    if towards_entropy is not None:
        grad += towards_entropy
    if head.softcap is not None:  # d tanh = 1 - tanh^2, and tanh is the capped logit over the cap
        grad = grad * (1 - (logits * head.temperature / head.softcap).square())
    if head.scale / head.temperature != 1:
        grad = grad * (head.scale / head.temperature)
    return grad.to(hidden.dtype)


def _grad_of_entropy(logits: Tensor, probabilities: Tensor, grad_entropy: Tensor) -> Tensor:
    """Return dH/dlogit_j = -p_j (log p_j + H), times the gradient of the entropy. (N, V)"""
    logp = torch.log_softmax(logits, -1)
    entropy = -(probabilities * logp).sum(-1, keepdim=True)
    return -grad_entropy[:, None] * probabilities * (logp + entropy)


def _chunks(n_rows: int, chunk_rows: int) -> Iterator[slice]:
    return (slice(start, start + chunk_rows) for start in range(0, n_rows, chunk_rows))


def head_of(module: Any, temperature: float) -> Head:
    """Return the output layer of a causal language model, with the cap or scale that its config declares."""
    output = module.get_output_embeddings()
    config = module.config
    scale = getattr(config, "logit_scale", None)  # Cohere multiplies
    divisor = getattr(config, "logits_scaling", None)  # Granite divides
    return Head(
        output.weight,
        getattr(output, "bias", None),
        temperature,
        getattr(config, "final_logit_softcapping", None),
        (scale if scale is not None else 1.0) / (divisor if divisor is not None else 1.0),
    )
