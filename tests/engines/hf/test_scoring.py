"""Log-likelihoods of the hf engine, against forward passes of one text at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from character_model import CHARACTERS, write_character_model

from harness.core.config import parse_plugin
from harness.core.errors import EngineError
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Message, Passage, Request, Sampling
from harness.engines.hf.prefix_tree import Node, pack
from harness.engines.hf.scoring import last_logits
from harness.models.chat import PLAIN
from harness.models.passages import scoring_windows


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    opened = parse_plugin("engines", "hf").build()
    opened.open(ModelSource(str(write_character_model(tmp_path_factory.mktemp("model"))), device="cpu"))
    yield opened
    opened.close()


def text(draw: random.Random, n: int) -> str:
    return "".join(draw.choices(CHARACTERS, k=n))


def plain(prompt: str) -> tuple[Message, ...]:
    return (Message(PLAIN, prompt),)


def asked(*several: Passage) -> list[Request]:
    return [Request(f"p{i}", 0, (), i, Sampling(1), (passage,)) for i, passage in enumerate(several)]


def by_hand(engine: Any, ids: list[int], n_scored: int) -> float:
    with torch.no_grad():
        logits = engine.module(torch.tensor([ids])).logits[0, :-1].double()
    logp = torch.log_softmax(logits, -1)
    return sum(float(logp[i - 1, ids[i]]) for i in range(len(ids) - n_scored, len(ids)))


def logps(completions: Any) -> list[float]:
    return [c.likelihoods[0].logp for c in sorted(completions, key=lambda c: int(c.problem_id[1:]))]


def test_passage_after_a_prompt_is_scored(engine: Any) -> None:
    assert engine.can_score
    draw = random.Random(0)
    pairs = [(text(draw, draw.randint(2, 90)).strip() + "a", text(draw, draw.randint(1, 9))) for _ in range(12)]
    found = list(engine.score(asked(*(Passage(plain(prompt), passage) for prompt, passage in pairs))))
    expected = [by_hand(engine, engine.tokenizer(p + t)["input_ids"], len(t)) for p, t in pairs]
    assert logps(found) == pytest.approx(expected, rel=1e-5)
    assert [c.likelihoods[0].n_tokens for c in found] == [len(t) for _, t in pairs]
    assert all(isinstance(c, Completion) and c.text == "" for c in found)


def test_spaces_at_the_end_of_a_prompt_belong_to_the_passage(engine: Any) -> None:
    (scored,) = engine.score(asked(Passage(plain("abc  "), "de")))
    found = scored.likelihoods[0]
    assert found.n_tokens == 4
    assert found.logp == pytest.approx(by_hand(engine, engine.tokenizer("abc  de")["input_ids"], 4), rel=1e-5)


def test_passage_without_a_prompt_is_scored_as_a_document(engine: Any) -> None:
    ids = [engine.tokenizer.eos_token_id, *engine.tokenizer("cab 12")["input_ids"]]
    found = engine.score(asked(Passage(plain(""), "cab 12"), Passage((), "cab 12")))
    assert logps(found) == pytest.approx([by_hand(engine, ids, 6)] * 2, rel=1e-5)


def test_a_long_document_is_read_in_windows_that_score_each_token_once(engine: Any) -> None:
    whole = text(random.Random(1), 2500)
    ids = [engine.tokenizer.eos_token_id, *engine.tokenizer(whole)["input_ids"]]
    windows = [(ids[:1025], 1024), (ids[1024:2049], 1024), (ids[-1025:], 2500 - 2048)]
    (found,) = engine.score(asked(Passage((), whole)))
    assert found.likelihoods[0].n_tokens == 2500
    assert found.likelihoods[0].logp == pytest.approx(sum(by_hand(engine, *window) for window in windows), rel=1e-5)


def test_is_greedy_equals_the_result_of_greedy_decoding(engine: Any) -> None:
    prompt = "a cat saw 3 red birds"
    request = Request("p0", 0, plain(prompt), 0, Sampling(6, temperature=0.0))
    (reply,) = engine.generate([request])
    written = engine.tokenizer.decode(reply.tokens.completion_ids)
    other = written[:-1] + ("a" if written[-1] != "a" else "b")
    found = engine.score(asked(Passage(plain(prompt), written), Passage(plain(prompt), other)))
    assert [c.likelihoods[0].is_greedy for c in found] == [True, False]


def test_scoring_renders_the_prompt_with_the_chat_template(engine: Any) -> None:
    turns = (Message("user", "hi"),)
    (found,) = engine.score(asked(Passage(turns, "ok")))
    ids = engine.tokenizer("<user>hi\n:ok")["input_ids"]
    assert found.likelihoods[0].logp == pytest.approx(by_hand(engine, ids, 2), rel=1e-5)


def test_likelihood_has_the_same_bits_in_any_batch(engine: Any) -> None:
    draw = random.Random(2)
    passages = [Passage(plain(text(draw, draw.choice([5, 40, 41])) + "a"), text(draw, 3)) for _ in range(60)]
    together = logps(engine.score(asked(*passages)))
    alone = [logps(engine.score(asked(passage)))[0] for passage in passages[::7]]
    assert alone == together[::7]


def test_passages_that_differ_in_the_last_token_alone_are_read_once(engine: Any) -> None:
    read: list[Any] = []
    hook = engine.module.register_forward_pre_hook(lambda _, a, k: read.append(k["input_ids"]), with_kwargs=True)
    list(engine.score(asked(*(Passage(plain("which of those birds is red?"), letter) for letter in "abcd"))))
    hook.remove()
    (rows,) = read
    assert len(rows.unique(dim=0)) == 1


def test_passage_that_does_not_fit_is_refused_before_anything_is_computed(engine: Any) -> None:
    with pytest.raises(EngineError, match=r"'p1' has a prompt and a passage of 1026 tokens.*context of 1024"):
        next(engine.score(asked(Passage(plain("a"), "b"), Passage(plain("a" * 1024), "bc"))))


def test_a_passage_without_a_token_is_refused(engine: Any) -> None:
    with pytest.raises(EngineError, match="'p0' asks for the likelihood of ''"):
        next(engine.score(asked(Passage(plain("a"), ""))))


def test_rows_of_unequal_length_in_one_batch_have_the_logits_of_single_rows(engine: Any) -> None:
    draw = random.Random(3)
    rows = [pack(Node(0, tuple(engine.tokenizer(text(draw, n))["input_ids"]), [], True), ()) for n in (50, 37, 36)]
    together = last_logits(engine.module, rows, 4)[:, -4:]
    alone = torch.cat([last_logits(engine.module, [row], 4)[:, -4:] for row in rows])
    assert (together - alone).abs().max() < 1e-4


def test_document_begins_with_one_beginning_of_sequence_token() -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken("<s>", special=True)])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="?")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # which alone decides, and wants none

    def read(passage: Passage) -> list[tuple[tuple[int, ...], int]]:
        return [(window.ids, window.n_scored) for window in scoring_windows(tokenizer, passage, 9, "p")]

    assert read(Passage(plain("a"), " b")) == [((0, 1, 2), 1)]
    assert read(Passage(plain("<s> a"), " b")) == [((0, 1, 2), 1)]
    assert read(Passage((Message("user", "a"),), " b")) == [((1, 2), 1)]
    assert read(Passage((Message("user", "<s> a"),), " b")) == [((0, 1, 2), 1)]
    assert read(Passage(plain(""), "a b")) == [((0, 1, 2), 2)]
