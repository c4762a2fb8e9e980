"""The hf engine: log-probabilities, bit-equal batches, end tokens, weights from training, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from countdown_requests import by_key, make_requests
from training_parts import tiny_module, tiny_source, tiny_tokenizer

from harness.core.config import parse_plugin
from harness.core.errors import ModelError
from harness.core.protocols import ModelSource
from harness.core.types import Message, Request, Sampling


@pytest.fixture
def hf() -> Any:
    opened = parse_plugin("engines", "hf").build()
    opened.open(tiny_source(random_seed=None))
    return opened


def test_log_probabilities_are_those_of_a_teacher_forced_pass(hf: Any) -> None:
    module = hf.module
    for temperature in (1.0, 0.6):
        for completion in hf.generate(make_requests(6, temperature=temperature)):
            tokens = completion.tokens
            ids = torch.tensor([[*tokens.prompt_ids, *tokens.completion_ids]])
            with torch.no_grad():
                logp = torch.log_softmax(module(input_ids=ids).logits[0].double() / temperature, -1)
            n = len(tokens.completion_ids)
            forced = logp[-n - 1 : -1].gather(-1, ids[0, -n:, None])[:, 0]
            assert (forced - torch.tensor(tokens.logp_behaviour).double()).abs().max() < 1e-5


def test_batches_agree_to_the_last_bit_on_a_cpu(hf: Any) -> None:
    requests = make_requests(40)
    together = by_key(hf.generate(requests))
    assert by_key(hf.generate(requests[::-1])) == together
    assert by_key(hf.generate(requests[:1])) == {("p0", 0): together["p0", 0]}


def test_padded_prompts_change_nothing_but_rounding(hf: Any) -> None:
    long, short = "1 2 4 5 7 9 = 38 :", "3 4 = 7 :"
    sampling = Sampling(max_tokens=10)
    requests = [Request(p, 0, (Message("user", p),), 5, sampling) for p in (long, short)]
    together, alone = by_key(hf.generate(requests)), by_key(c for r in requests for c in hf.generate([r]))
    for key, completion in together.items():
        assert completion.text == alone[key].text
        differences = torch.tensor(completion.tokens.logp_behaviour) - torch.tensor(alone[key].tokens.logp_behaviour)
        assert differences.abs().max() < 1e-5


def test_the_batch_size_does_not_change_texts() -> None:
    texts = []
    for rows in (7, 256):
        opened = parse_plugin("engines", {"id": "hf", "batch_rows": rows}).build()
        opened.open(tiny_source(random_seed=None))
        texts.append({key: c.text for key, c in by_key(opened.generate(make_requests(9))).items()})
    assert texts[0] == texts[1]


def test_end_token_is_counted_and_not_in_the_text(hf: Any) -> None:
    ended = [c for c in hf.generate(make_requests(20)) if c.finish_reason == "stop"]
    assert ended
    for completion in ended:
        assert completion.tokens.completion_ids[-1] == hf.tokenizer.eos_token_id
        assert "<eos>" not in completion.text


def test_stop_strings_end_the_text_before_them(hf: Any) -> None:
    free = by_key(hf.generate(make_requests(10)))
    stopped = by_key(hf.generate(make_requests(10, stop=(";",))))
    for key, completion in stopped.items():
        assert completion.text == free[key].text.partition(";")[0]
        assert completion.finish_reason == "stop"


def test_completions_come_from_the_weights_of_load_weights(hf: Any) -> None:
    before = by_key(hf.generate(make_requests(4)))
    hf.load_weights(tiny_module(random_seed=1).state_dict().items(), version=7)
    assert hf.version == 7
    assert by_key(hf.generate(make_requests(4))) != before


def test_prompts_beyond_the_context_are_refused(hf: Any) -> None:
    long = make_requests(1, max_tokens=60)
    with pytest.raises(ModelError, match="context of 64"):
        list(hf.generate(long))
    with pytest.raises(ModelError, match="the prompt of 'p0' has 9 tokens"):
        next(hf.generate([*make_requests(1), *long]))  # before anything is generated


def test_a_tokenizer_without_chat_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    opened = parse_plugin("engines", "hf").build()
    opened.open(ModelSource("x", module=tiny_module(), tokenizer=tokenizer))
    with pytest.raises(ModelError, match="chat template"):
        list(opened.generate(make_requests(1)))


def test_greedy_decoding_does_not_depend_on_the_seed(hf: Any) -> None:
    requests = make_requests(1, temperature=0.0)
    other = [dataclasses.replace(request, seed=request.seed + 1) for request in requests]
    assert [c.text for c in hf.generate(requests)] == [c.text for c in hf.generate(other)]
