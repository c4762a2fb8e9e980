"""The engine tinker, with a fake server in this process."""

from __future__ import annotations

import math

import pytest
import torch

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError, ModelError
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Failure, Message, Request, Sampling
from harness.models.loading import load_module, load_tokenizer, resolve

PROMPT = "3 5 7 = 15 ;"


def request(seed, problem="p", **options):
    sampling = Sampling(**{"max_tokens": 8, **options})
    return Request(problem, seed, (Message("user", PROMPT),), seed, sampling)


@pytest.fixture
def source():
    return ModelSource(resolve("countdown-tiny"), device="cpu")


@pytest.fixture
def engine(fake, source):
    options = {"id": "tinker", "base_url": fake.url, "base_model": "countdown-tiny", "timeout_s": 120.0}
    opened = parse_plugin("engines", {**options, "max_concurrency": 4}).build()
    opened.open(source)
    yield opened
    opened.close()


def test_each_request_gets_its_completion_whatever_its_place(engine):
    several = list(engine.generate([request(seed) for seed in range(9)]))
    assert [c.seed for c in several] == list(range(9))
    (alone,) = engine.generate([request(5)])
    assert alone.text == several[5].text
    assert alone.tokens == several[5].tokens


def test_log_probs_are_those_of_the_model(engine, source):
    (completion,) = engine.generate([request(1)])
    prompt, ids = completion.tokens.prompt_ids, completion.tokens.completion_ids
    logits = load_module(source)(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1).detach()
    expected = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids)]
    assert list(completion.tokens.logp_behaviour) == pytest.approx(expected, abs=1e-5)


def test_log_probs_of_another_temperature_are_left_out(engine):
    (completion,) = engine.generate([request(1, temperature=0.5)])
    assert completion.tokens.logp_behaviour is None, "the server gives those at 1"


def test_a_completion_ends_at_the_end_token_or_the_limit(engine, source):
    tokenizer = load_tokenizer(source)
    found = list(engine.generate([request(seed, max_tokens=n) for seed in range(6) for n in (2, 30)]))
    for completion in found:
        has_end = completion.tokens.completion_ids[-1] == tokenizer.eos_token_id
        assert (completion.finish_reason == "stop") is has_end
        assert "<eos>" not in completion.text
    assert {completion.finish_reason for completion in found} == {"stop", "length"}


def test_a_stop_string_ends_the_tokens_with_the_one_that_completes_it(engine):
    (whole,) = engine.generate([request(3, max_tokens=30)])
    stop = whole.text[2]
    (cut,) = engine.generate([request(3, max_tokens=30, stop=(stop,))])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    n = cut.tokens.n_completion
    assert n == len(cut.tokens.completion_ids) == len(cut.tokens.logp_behaviour) < whole.tokens.n_completion
    assert cut.tokens.completion_ids == whole.tokens.completion_ids[:n]
    assert math.isfinite(sum(cut.tokens.logp_behaviour))


def test_a_refused_request_is_a_failure_and_never_a_text(engine, fake):
    fake.errors["sample"] = RuntimeError("the prompt is not nice")
    answers = list(engine.generate([request(1), request(2)]))
    assert all(isinstance(answer, Failure) and "not nice" in answer.reason for answer in answers)
    del fake.errors["sample"]
    assert isinstance(next(engine.generate([request(1)])), Completion)


def test_prompts_that_can_not_be_asked_are_refused_before(engine, source):
    with pytest.raises(ConfigError, match="min_p"):
        engine.check_prompts(source, [request(1, min_p=0.1)])
    with pytest.raises(ModelError, match="exceeds the model's context"):
        engine.check_prompts(source, [request(1, max_tokens=10_000)])


def test_saved_weights_are_named_by_their_path(fake, source):
    options = {"id": "tinker", "base_url": fake.url, "base_model": "countdown-tiny", "weights": "tinker://a/b"}
    engine = parse_plugin("engines", options).build()
    engine.open(source)
    assert next(engine.generate([request(1)])).text
    engine.close()
