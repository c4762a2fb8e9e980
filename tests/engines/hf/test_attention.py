"""Attention of one query: against a plain float64 sum, and independent of the rest of the batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import MistralConfig
from transformers.masking_utils import create_sliding_window_causal_mask

from harness.engines.hf.attention import NAME, NAME_IN_BLOCKS, decoding, one_query_attention
from harness.engines.hf.cache import SlottedCache

MODULE = SimpleNamespace(num_key_value_groups=2, is_causal=True)


def drawn(rows: int, n_queries: int, n_keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, 4, n_queries, 24), (rows, 2, n_keys, 24), (rows, 2, n_keys, 24)
    query, key, value = (torch.randn(*shape, generator=generator) for shape in shapes)
    return query, key, value


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Compute softmax and sums in float64, one query at a time; head h reads key head h // 2."""
    rows, heads, _, width = query.shape
    result = torch.zeros(rows, 1, heads, width, dtype=torch.float64)
    for row in range(rows):
        for head in range(heads):
            keys, values = key[row, head // 2].double(), value[row, head // 2].double()
            seen = torch.ones(len(keys), dtype=torch.bool) if mask is None else mask[row, 0, 0]
            weights = torch.softmax((keys[seen] @ query[row, head, 0].double()) / width**0.5, 0)
            result[row, 0, head] = weights @ values[seen]
    return result


@pytest.mark.parametrize("is_masked", [False, True])
def test_one_query_attention_is_the_softmax_of_its_scores(is_masked: bool) -> None:
    query, key, value = drawn(5, 1, 11)
    mask = (torch.arange(11) >= torch.arange(5)[:, None])[:, None, None] if is_masked else None
    found, _ = one_query_attention(MODULE, query, key, value, mask)
    assert (found - by_hand(query, key, value, mask)).abs().max() < 1e-6


def test_several_queries_go_to_the_fused_kernel() -> None:
    query, key, value = drawn(3, 7, 7)
    found, _ = one_query_attention(MODULE, query, key, value, None)
    repeated = [states.repeat_interleave(2, 1) for states in (key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, is_causal=True)
    assert (found - expected.transpose(1, 2)).abs().max() < 1e-6


def test_one_query_attention_has_the_same_bits_in_any_batch() -> None:
    query, key, value = drawn(300, 1, 33)
    together, _ = one_query_attention(MODULE, query, key, value, None)
    for rows in (1, 2, 31, 200):
        part, _ = one_query_attention(MODULE, query[:rows].clone(), key[:rows].clone(), value[:rows].clone(), None)
        assert torch.equal(part, together[:rows])


@pytest.mark.parametrize(("in_blocks", "name"), [(False, NAME), (True, NAME_IN_BLOCKS)])
def test_the_model_gets_its_own_attention_back_after_an_error(in_blocks: bool, name: str) -> None:
    config = SimpleNamespace(_attn_implementation="sdpa")
    config.get_text_config = lambda: config
    model = SimpleNamespace(config=config, device=torch.device("cpu"), _supports_attention_backend=True)

    def fail_inside() -> None:
        with decoding(model, None, in_blocks=in_blocks):
            assert config._attn_implementation == name
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert config._attn_implementation == "sdpa"


def test_masks_are_built_for_the_column_of_each_row() -> None:
    config = MistralConfig(sliding_window=3, num_hidden_layers=1)
    config._attn_implementation = "sdpa"
    model = SimpleNamespace(config=config, device=torch.device("cpu"))
    columns = torch.tensor([4, 1])
    cache = SlottedCache(config, 2, torch.device("cpu"))
    cache.next.width = 5
    embeddings = torch.zeros(2, 1, 8)
    with decoding(model, columns, in_blocks=False):
        mask = create_sliding_window_causal_mask(config, embeddings, None, cache)
    assert mask[:, 0, 0].int().tolist() == [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]
    after = create_sliding_window_causal_mask(config, embeddings, None, cache)
    assert after[:, 0, 0].int().tolist() == [[0, 0, 1, 1, 1]] * 2
