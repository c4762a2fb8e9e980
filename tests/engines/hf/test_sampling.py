"""Sampling of the hf engine: uniform numbers, frequencies of tokens, min_p, top_k and top_p."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from harness.core.types import Sampling
from harness.engines.hf.sampling import draw, keep_likely, uniforms


def test_uniforms_are_uniform_and_independent_over_seeds_and_positions() -> None:
    seeds = torch.arange(20_000) * 7919 + 12345
    for position in (0, 1, 500):
        u = uniforms(seeds, position)
        assert 0 <= u.min() < u.max() < 1
        # mean of 20,000 uniforms: standard error 0.002; deciles: 2,000 +- 42
        assert abs(float(u.mean()) - 0.5) < 0.01
        assert (torch.histc(u, 10, 0, 1) - 2000).abs().max() < 220
    assert abs(float(torch.corrcoef(torch.stack([uniforms(seeds, 0), uniforms(seeds, 1)]))[0, 1])) < 0.03


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, float("-inf")]]).expand(40_000, 5)
    ids, logp = draw(logits, torch.arange(40_000), 3, Sampling(max_tokens=1, temperature=0.7))
    expected = torch.softmax(logits[0] / 0.7, -1)
    counts = Counter(ids.tolist())
    for token in range(5):
        # standard error of a share of 40,000 is at most 0.0025
        assert abs(counts[token] / 40_000 - float(expected[token])) < 0.01
    torch.testing.assert_close(logp, expected.log()[ids])


def test_temperature_zero_takes_the_likeliest_token() -> None:
    logits = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    ids, logp = draw(logits, torch.arange(9), 0, Sampling(max_tokens=1, temperature=0))
    assert torch.equal(ids, logits.argmax(-1))
    assert (logp == 0).all()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.65}, [1, 3]),
        ({"top_p": 0.75}, [1, 2, 3]),
        ({"top_p": 0.01}, [1]),
    ],
)
def test_top_k_and_top_p_keep_the_likeliest(options: dict[str, float], kept: list[int]) -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert torch.isfinite(keep_likely(logits, Sampling(1, **options)))[0].nonzero()[:, 0].tolist() == kept


def kept_by_hand(probabilities: Sequence[float], min_p: float, top_k: int, top_p: float) -> set[int]:
    """Apply the rules in the order of vLLM, one token at a time: min_p, top_k, then the smallest set of mass top_p."""
    kept = {i for i, p in enumerate(probabilities) if p >= min_p * max(probabilities)}
    by_rank = sorted(kept, key=lambda i: -probabilities[i])
    by_rank = by_rank[:top_k] if top_k > 0 else by_rank
    mass, total = 0.0, sum(probabilities[i] for i in by_rank)
    nucleus = set()
    for i in by_rank:
        if mass < top_p * total:
            nucleus.add(i)
        mass += probabilities[i]
    return nucleus


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.8, 1.0])
@pytest.mark.parametrize("top_k", [0, 7])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.3, 1.0])
def test_tokens_are_left_out_by_min_p_top_k_and_top_p_in_turn(
    min_p: float, top_k: int, top_p: float, temperature: float
) -> None:
    logits = torch.randn(20, 40, generator=torch.Generator().manual_seed(3)).double()
    probabilities = (logits / temperature).softmax(-1)
    kept = torch.isfinite(keep_likely(logits / temperature, Sampling(1, top_p=top_p, top_k=top_k, min_p=min_p)))
    for row, own in zip(kept, probabilities.tolist(), strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == kept_by_hand(own, min_p, top_k, top_p)


def test_min_p_is_a_share_of_the_likeliest_token_at_the_temperature() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(20_000, 1)
    ids, logp = draw(logits, torch.arange(20_000), 0, Sampling(1, min_p=0.4))
    assert set(ids.tolist()) == {0, 1}
    torch.testing.assert_close(logp, torch.tensor([0.5 / 0.8, 0.3 / 0.8]).log()[ids])
    # At temperature 2 the shares are 1, 0.77, 0.55 and 0.32.
    ids, _ = draw(logits, torch.arange(20_000), 0, Sampling(1, temperature=2.0, min_p=0.4))
    assert set(ids.tolist()) == {0, 1, 2}
