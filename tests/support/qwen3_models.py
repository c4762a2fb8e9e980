"""A Qwen3 model of countdown-tiny's sizes with its tokenizer: SkyRL serves no Qwen2."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from harness.core.protocols import ModelSource
from harness.models.loading import load_tokenizer, resolve


def save_qwen3(folder: Path, *, with_weights: bool = True) -> Path:
    """Write config and tokenizer, and random weights."""
    tokenizer = load_tokenizer(ModelSource(resolve("countdown-tiny")))
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=24,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
        architectures=["Qwen3ForCausalLM"],
        dtype="float32",
    )
    if with_weights:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            Qwen3ForCausalLM(config).float().save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
