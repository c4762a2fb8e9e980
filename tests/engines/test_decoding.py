"""Completions that come and go in one batch: each is what it is alone, and never more are decoded than may be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM as Models
from transformers import Gemma2Config, GPT2Config, MistralConfig, Qwen2Config

from harness.core.types import Sampling
from harness.engines._batch import Batch, Row
from harness.engines._decode import decode
from harness.engines._sampling import draw
from harness.engines._seats import can_be_seated

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
    "sliding": MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=9),
    "eager": Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
}
HOW = Sampling(max_tokens=30)
ENDS = range(10)


def made(name: str) -> Any:
    torch.manual_seed(0)
    return Models.from_config(CONFIGS[name]).eval()


def drawn_prompts(lengths: Sequence[int]) -> list[list[int]]:
    chance = random.Random(0)
    return [[chance.randrange(110) for _ in range(length)] for length in lengths]


def is_finished(row: Row) -> bool:
    return row.ids[-1] in ENDS


def decoded(module: Any, prompts: Any, rows: Sequence[Row], max_rows: int = 256) -> list[Row]:
    found = list(decode(module, prompts, rows, HOW, is_finished, max_rows))
    return sorted(found, key=lambda row: row.request)


def rows_of(prompts: Sequence[Any], n: int, order: int = 0) -> list[Row]:
    rows = [Row(n * p + i, p, 1000 * p + i) for p in range(len(prompts)) for i in range(n)]
    return random.Random(order).sample(rows, len(rows)) if order else rows


def one_at_a_time(module: Any, prompt: Sequence[int], seed: int) -> tuple[list[int], list[float]]:
    """The whole sequence is read again for every token."""
    ids: list[int] = []
    logp: list[float] = []
    while len(ids) < HOW.max_tokens and not (ids and ids[-1] in ENDS):
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([[*prompt, *ids]])).logits[:, -1]
        token, its_logp = draw(logits, torch.tensor([seed]), len(ids), HOW)
        ids, logp = [*ids, int(token)], [*logp, float(its_logp)]
    return ids, logp


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_rows_that_come_and_go_are_those_of_a_plain_loop(name: str) -> None:
    module, prompts = made(name), drawn_prompts([3, 28, 1, 9, 17, 9])
    found = decoded(module, prompts, rows_of(prompts, 5, order=1), max_rows=6)
    assert [row.request for row in found] == list(range(30))
    for row in found:
        ids, logp = one_at_a_time(module, prompts[row.prompt], row.seed)
        assert row.ids == ids
        assert row.finish_reason == ("stop" if ids[-1] in ENDS else "length")
        assert torch.tensor(row.logp) == pytest.approx(torch.tensor(logp), abs=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "one key head", "two queries a head"])
@pytest.mark.parametrize("max_rows", [5, 40, 256])
def test_a_row_is_the_same_to_the_bit_alone_among_equals_and_when_it_came_late(name: str, max_rows: int) -> None:
    module, prompts = made(name), drawn_prompts([31, 1, 12, 9, 9, 20])
    assert can_be_seated(module)
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
    step = Batch.step

    def counted(self: Batch, sampling: Sampling) -> Any:
        found.append(len(self.current()))
        return step(self, sampling)

    monkeypatch.setattr(Batch, "step", counted)
    return found


def prompts_read_by(module: Any) -> list[tuple[int, ...]]:
    """All that is read in passes over more than one column, once for each pass."""
    found: list[tuple[int, ...]] = []

    def look(_: Any, given: tuple[Any, ...], settings: dict[str, Any]) -> None:
        ids = settings["input_ids"] if "input_ids" in settings else given[0]
        if ids.shape[1] > 1:
            found.extend(dict.fromkeys(map(tuple, ids.tolist())))

    module.base_model.register_forward_pre_hook(look, with_kwargs=True)
    return found


@pytest.mark.parametrize("name", ["two queries a head", "sliding"])
def test_never_more_rows_than_may_be(name: str, n_rows: list[int]) -> None:
    prompts = drawn_prompts([5, 9, 9, 14])
    decoded(made(name), prompts, rows_of(prompts, 12), 10)
    assert max(n_rows) == 10


def test_a_waiting_row_takes_the_first_free_slot_and_its_prompt_is_read_once(n_rows: list[int]) -> None:
    prompts, module = drawn_prompts([9]), made("gpt2")
    prompts_read = prompts_read_by(module)
    found = decoded(module, prompts, rows_of(prompts, 60), 16)
    n_tokens = sum(len(row.ids) for row in found)
    # All slots are taken until no row waits, and then no row has more than its longest to go.
    assert sum(n == 16 for n in n_rows) * 16 > n_tokens - 16 * HOW.max_tokens
    assert len(n_rows) <= n_tokens / 16 + HOW.max_tokens
    assert prompts_read == [tuple(prompts[0][:-1])]


def test_what_was_not_a_number_in_one_row_is_not_passed_on_to_who_takes_its_slot() -> None:
    module, prompts = made("gpt2"), drawn_prompts([20, 3, 3, 3])
    prompts[0][5] = 109
    with torch.no_grad():
        module.transformer.wte.weight[109] = torch.nan
    module.lm_head.weight = torch.nn.Parameter(torch.randn(110, 64) * 0.1)  # of its own, without that token
    found = decoded(module, prompts, rows_of(prompts, 3), max_rows=3)
    for row in found:
        is_ill = 109 in [*prompts[row.prompt], *row.ids[:-1]]
        assert bool(torch.tensor(row.logp).isfinite().all()) != is_ill


def test_bfloat16_decodes_and_ends() -> None:
    module, prompts = made("one key head").bfloat16(), drawn_prompts([30, 4, 11])
    found = decoded(module, prompts, rows_of(prompts, 9), max_rows=8)
    assert len(found) == 27
    for row in found[:6]:
        logits = module(input_ids=torch.tensor([[*prompts[row.prompt], *row.ids]])).logits[0].float()
        n = len(row.ids)
        forced = torch.log_softmax(logits, -1)[-n - 1 : -1].gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        # eight bits of logits of a few units
        assert (forced - torch.tensor(row.logp)).abs().max() < 0.1
