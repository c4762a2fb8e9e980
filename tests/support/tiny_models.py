"""Tiny models of several families, and their own log-probs to compare with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cohere2Config, Gemma2Config, GraniteConfig, LlamaConfig, Qwen2Config

from harness.core.tensors import Batch

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 110,
}


CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
    "granite": GraniteConfig(**SHAPE, num_key_value_heads=2, logits_scaling=5.0),
    "cohere2": Cohere2Config(**SHAPE, num_key_value_heads=2, logit_scale=0.25),
}


def own_logp(module: Any, batch: Batch, temperature: float) -> torch.Tensor:
    """From the model's own logits, one unpadded sequence at a time."""
    rows = torch.zeros(batch.completion_mask.shape, dtype=torch.float64)
    for row, (p, c) in enumerate(zip(batch.prompt_lengths.tolist(), batch.completion_lengths.tolist(), strict=True)):
        ids = batch.sequence_ids[row : row + 1, : p + c]
        logits = module(input_ids=ids).logits[0].double() / temperature
        for t in range(c):
            rows[row, t] = torch.log_softmax(logits[p + t - 1], -1)[ids[0, p + t]]
    return rows
