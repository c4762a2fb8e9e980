"""Continuous batching: every completion is what it is alone, and the batch never exceeds its limit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM as Models
from transformers import (
    BloomConfig,
    DogeConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    Llama4TextConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3NextConfig,
    RoFormerConfig,
)

from harness.core.types import Sampling
from harness.engines.hf.batch import DecodeBatch, DecodingSlot, mixes_lengths
from harness.engines.hf.decode import decode
from harness.engines.hf.sampling import draw

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 96,
    "vocab_size": 110,
    "max_position_embeddings": 120,
}
CONFIGS = {
    "gpt2": GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=110, n_positions=61),
    "one key head": Qwen2Config(**SHAPE, num_key_value_heads=1),
    "two queries a head": Qwen2Config(**SHAPE, num_key_value_heads=4),
    "sliding window": MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=9),
    "eager, every second layer sliding": Gemma2Config(
        **SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=9, final_logit_softcapping=3.0
    ),
    "chunks": Llama4TextConfig(
        **SHAPE,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size_mlp=96,
        moe_layers=[],
        attention_chunk_size=9,
        layer_types=["chunked_attention", "full_attention"],
    ),
    "recurrent state": Qwen3NextConfig(
        **SHAPE,
        num_key_value_heads=2,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        mlp_only_layers=[0, 1],
    ),
    "alibi": BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=110),
    "own attention code": FalconConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=110),
    "own mask code": DogeConfig(**SHAPE, num_key_value_heads=2),
    "positions from the cache": RoFormerConfig(**SHAPE, is_decoder=True),
}
SAMPLING = Sampling(max_tokens=30)
ENDS = range(10)


def make_model(name: str) -> Any:
    torch.manual_seed(0)
    return Models.from_config(CONFIGS[name]).eval()


def make_prompts(lengths: Sequence[int]) -> list[list[int]]:
    chance = random.Random(0)
    return [[chance.randrange(110) for _ in range(length)] for length in lengths]


def is_finished(row: DecodingSlot) -> bool:
    return row.ids[-1] in ENDS


def decoded(module: Any, prompts: Any, rows: Sequence[DecodingSlot], max_rows: int = 256) -> list[DecodingSlot]:
    found = list(decode(module, prompts, rows, SAMPLING, is_finished, max_rows))
    return sorted(found, key=lambda row: row.request)


def rows_of(prompts: Sequence[Any], n: int, order: int = 0) -> list[DecodingSlot]:
    rows = [DecodingSlot(n * p + i, p, 1000 * p + i) for p in range(len(prompts)) for i in range(n)]
    return random.Random(order).sample(rows, len(rows)) if order else rows


def one_at_a_time(module: Any, prompt: Sequence[int], seed: int) -> tuple[list[int], list[float]]:
    """Decode by reading the whole sequence again for every token."""
    ids: list[int] = []
    logp: list[float] = []
    while len(ids) < SAMPLING.max_tokens and not (ids and ids[-1] in ENDS):
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[:, -1]
        token, its_logp = draw(logits, torch.tensor([seed]), len(ids), SAMPLING)
        ids, logp = [*ids, int(token)], [*logp, float(its_logp)]
    return ids, logp


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_continuous_batching_equals_a_plain_loop(name: str) -> None:
    module, prompts = make_model(name), make_prompts([3, 28, 1, 9, 17, 9])
    found = decoded(module, prompts, rows_of(prompts, 5, order=1), max_rows=6)
    assert [row.request for row in found] == list(range(30))
    for row in found:
        ids, logp = one_at_a_time(module, prompts[row.prompt], row.seed)
        assert row.ids == ids
        assert row.finish_reason == ("stop" if ids[-1] in ENDS else "length")
        assert torch.tensor(row.logp) == pytest.approx(torch.tensor(logp), abs=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "one key head", "two queries a head"])
@pytest.mark.parametrize("max_rows", [5, 40, 256])
def test_a_completion_has_the_same_bits_alone_and_in_any_batch(name: str, max_rows: int) -> None:
    module, prompts = make_model(name), make_prompts([31, 1, 12, 9, 9, 20])
    assert mixes_lengths(module)
    together = decoded(module, prompts, rows_of(prompts, 8), max_rows)
    assert decoded(module, prompts, rows_of(prompts, 8, order=2), max_rows) == together
    equals = decoded(module, prompts, [row for row in rows_of(prompts, 8) if row.prompt in (3, 4)])
    assert equals == together[24:40]
    for request in (0, 7, 12, 20, 33, 47):
        assert decoded(module, prompts, [rows_of(prompts, 8)[request]]) == [together[request]]


@pytest.fixture
def n_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of completions in each decoding pass."""
    found: list[int] = []
    step = DecodeBatch.step

    def counted(self: DecodeBatch, sampling: Sampling) -> Any:
        found.append(len(self.live()))
        return step(self, sampling)

    monkeypatch.setattr(DecodeBatch, "step", counted)
    return found


def prompts_read_by(module: Any) -> list[tuple[int, ...]]:
    """Return what passes over more than one column read, once for each pass."""
    found: list[tuple[int, ...]] = []

    def look(_: Any, given: tuple[Any, ...], settings: dict[str, Any]) -> None:
        ids = settings["input_ids"] if "input_ids" in settings else given[0]
        if ids.shape[1] > 1:
            found.extend(dict.fromkeys(map(tuple, ids.tolist())))

    module.base_model.register_forward_pre_hook(look, with_kwargs=True)
    return found


@pytest.mark.parametrize("name", ["two queries a head", "sliding window", "recurrent state"])
def test_the_batch_never_exceeds_its_limit(name: str, n_rows: list[int]) -> None:
    prompts = make_prompts([5, 9, 9, 14])
    decoded(make_model(name), prompts, rows_of(prompts, 12), 10)
    assert max(n_rows) == 10


def test_a_waiting_completion_takes_the_first_free_slot_and_its_prompt_is_read_once(n_rows: list[int]) -> None:
    prompts, module = make_prompts([9]), make_model("gpt2")
    prompts_read = prompts_read_by(module)
    found = decoded(module, prompts, rows_of(prompts, 60), 16)
    n_tokens = sum(len(row.ids) for row in found)
    # All slots are taken until no row waits, and then no row has more than its longest to go.
    assert sum(n == 16 for n in n_rows) * 16 > n_tokens - 16 * SAMPLING.max_tokens
    assert len(n_rows) <= n_tokens / 16 + SAMPLING.max_tokens
    assert prompts_read == [tuple(prompts[0][:-1])]


def test_nan_in_one_completion_does_not_reach_the_next_one_in_its_slot() -> None:
    module, prompts = make_model("gpt2"), make_prompts([20, 3, 3, 3])
    prompts[0][5] = 109
    with torch.no_grad():
        module.transformer.wte.weight[109] = torch.nan
    module.lm_head.weight = torch.nn.Parameter(torch.randn(110, 64) * 0.1)  # of its own, without that token
    found = decoded(module, prompts, rows_of(prompts, 3), max_rows=3)
    for row in found:
        is_ill = 109 in [*prompts[row.prompt], *row.ids[:-1]]
        assert bool(torch.tensor(row.logp).isfinite().all()) != is_ill


def test_bfloat16_log_probabilities_are_those_of_a_full_pass() -> None:
    module, prompts = make_model("one key head").bfloat16(), make_prompts([30, 4, 11])
    found = decoded(module, prompts, rows_of(prompts, 9), max_rows=8)
    assert len(found) == 27
    for row in found[:6]:
        logits = module(input_ids=torch.tensor([[*prompts[row.prompt], *row.ids]])).logits[0].float()
        n = len(row.ids)
        forced = torch.log_softmax(logits, -1)[-n - 1 : -1].gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        # eight bits of logits of a few units
        assert (forced - torch.tensor(row.logp)).abs().max() < 0.1
