"""The forward pass of the model's layers over a batch: the hidden states that predict every completion token.

`forward_full` runs each sequence from its first token. `forward_shared_prompt` runs each prompt once, however many
completions it has, and then the completions on the prompt's keys and values; gradients add up over the completions.
Both give the same states up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.tensors import Batch


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """The last hidden states of a batch, with N completion tokens and passes over G prompts."""

    predicting: Tensor  # (N, H): the state that predicts each completion token
    ids: Tensor  # (N,): the completion tokens
    prompt_hidden: Tensor  # (G, at least P, H)
    prompt_rows: Tensor  # (G,): a row of the batch with this prompt
    prompt_of: Tensor  # (B,): the index into G of each completion


def forward_full(module: Any, batch: Batch) -> HiddenStates:
    """Run every sequence on its own. Right padding is causally out of reach, so there is no attention mask."""
    # The last token predicts nothing.
    hidden = module.base_model(input_ids=batch.sequence_ids[:, :-1], use_cache=False).last_hidden_state
    rows, offsets = batch.completion_mask.nonzero(as_tuple=True)
    positions = batch.prompt_lengths[rows] + offsets
    every_row = torch.arange(len(batch.sequence_ids), device=hidden.device)
    return HiddenStates(hidden[rows, positions - 1], batch.sequence_ids[rows, positions], hidden, every_row, every_row)


def forward_shared_prompt(module: Any, batch: Batch) -> HiddenStates:
    """Run every prompt once, then the completions on its keys and values."""
    from transformers import DynamicCache

    prompt_rows, prompt_of = _prompts(batch.group_ids)
    n_prompt = int(batch.prompt_lengths.max())
    cache = DynamicCache(config=module.config)
    prompt_hidden = module.base_model(
        input_ids=batch.sequence_ids[prompt_rows, :n_prompt], past_key_values=cache, use_cache=True
    ).last_hidden_state
    rows, offsets = batch.completion_mask.nonzero(as_tuple=True)
    ids = batch.sequence_ids[rows, batch.prompt_lengths[rows] + offsets]
    after_prompt = prompt_hidden[prompt_of, batch.prompt_lengths - 1]  # (B, H)
    width = int(batch.completion_lengths.max()) - 1
    if width == 0:
        return HiddenStates(after_prompt[rows], ids, prompt_hidden, prompt_rows, prompt_of)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[prompt_of], layer.values[prompt_of]
    positions = batch.prompt_lengths[:, None] + torch.arange(width, device=prompt_hidden.device)
    columns = positions.clamp(max=batch.sequence_ids.shape[1] - 1)
    hidden = module.base_model(
        input_ids=batch.sequence_ids.gather(1, columns),
        attention_mask=_mask(batch.prompt_lengths, n_prompt, width),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    predicting = torch.cat([after_prompt[:, None], hidden], 1)[rows, offsets]
    return HiddenStates(predicting, ids, prompt_hidden, prompt_rows, prompt_of)


def can_share_prompts(config: Any) -> bool:
    """Return whether every layer caches the keys and values of all positions, so that a prompt's can be shared."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if not config.get_text_config()._attn_implementation.startswith("sdpa"):
        return False  # others read a boolean mask differently: eager attention adds it
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _prompts(group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return a row of each group, and the index of each row's group. (G,), (B,)"""
    groups, prompt_of = torch.unique(group_ids, return_inverse=True)
    rows = torch.arange(len(group_ids), device=group_ids.device)
    prompt_rows = torch.zeros_like(groups).scatter_reduce(0, prompt_of, rows, "amin", include_self=False)
    return prompt_rows, prompt_of


def _mask(prompt_lengths: Tensor, n_prompt: int, width: int) -> Tensor:
    """Return True where a completion token attends: its prompt, the completion up to itself. (B, 1, width, keys)"""
    keys = torch.arange(n_prompt + width, device=prompt_lengths.device)
    queries = torch.arange(width, device=prompt_lengths.device)[:, None]
    in_completion = (keys >= n_prompt) & (keys - n_prompt <= queries)  # (width, keys)
    in_prompt = keys < prompt_lengths[:, None, None]  # (B, 1, keys)
    return (in_completion | in_prompt)[:, None]
