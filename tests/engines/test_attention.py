"""Attention of one query: against a plain float64 sum, and untouched by the rest of the batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.engines._attention import NAME, NAME_IN_BLOCKS, one_query_at_a_time, one_query_attention

MODULE = SimpleNamespace(num_key_value_groups=2, is_causal=True)


def drawn(rows: int, n_queries: int, n_keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, 4, n_queries, 24), (rows, 2, n_keys, 24), (rows, 2, n_keys, 24)
    query, key, value = (torch.randn(*shape, generator=generator) for shape in shapes)
    return query, key, value


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Head h reads key head h // 2; softmax and sums in float64, one query at a time."""
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
def test_one_query_is_the_softmax_of_its_scores(is_masked: bool) -> None:
    query, key, value = drawn(5, 1, 11)
    mask = (torch.arange(11) >= torch.arange(5)[:, None])[:, None, None] if is_masked else None
    found, _ = one_query_attention(MODULE, query, key, value, mask)
    assert (found - by_hand(query, key, value, mask)).abs().max() < 1e-6


def test_several_queries_are_left_to_the_fused_kernel() -> None:
    query, key, value = drawn(3, 7, 7)
    found, _ = one_query_attention(MODULE, query, key, value, None)
    repeated = [states.repeat_interleave(2, 1) for states in (key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, is_causal=True)
    assert (found - expected.transpose(1, 2)).abs().max() < 1e-6


def test_a_row_is_the_same_to_the_bit_in_any_batch() -> None:
    query, key, value = drawn(300, 1, 33)
    together, _ = one_query_attention(MODULE, query, key, value, None)
    for rows in (1, 2, 31, 200):
        part, _ = one_query_attention(MODULE, query[:rows].clone(), key[:rows].clone(), value[:rows].clone(), None)
        assert torch.equal(part, together[:rows])


@pytest.mark.parametrize(("in_blocks", "name"), [(False, NAME), (True, NAME_IN_BLOCKS)])
def test_the_model_has_its_own_attention_back_afterwards(in_blocks: bool, name: str) -> None:
    config = SimpleNamespace(_attn_implementation="sdpa")
    config.get_text_config = lambda: config
    model = SimpleNamespace(config=config, device=torch.device("cpu"))

    def fail_inside() -> None:
        with one_query_at_a_time(model, in_blocks=in_blocks):
            assert config._attn_implementation == name
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert config._attn_implementation == "sdpa"
