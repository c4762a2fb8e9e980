"""The option `compile` of the hf engine: the same texts and likelihoods, and few compilations."""

from __future__ import annotations

import functools
import os
import shutil

import pytest
import torch
from countdown_requests import by_key, make_requests
from torch._dynamo.utils import counters

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Message, Passage, Request, Sampling
from harness.models.loading import BUNDLED

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
SOURCE = ModelSource(str(BUNDLED / "countdown-tiny"))
PREFIX = "1 2 4 5 7 9 = 38 :"


def opened(**options: object) -> Engine:
    engine: Engine = parse_plugin("engines", {"id": "hf", **options}).build()
    engine.open(SOURCE)
    return engine


def scored(engine: Engine) -> list[Completion]:
    """Score four endings behind one prompt and two behind another."""
    endings = {PREFIX: ["4*9=36;36+2=38", "7*5=35", "1", "9"], "1 1 2 3 5 8 = 24 :": ["8*3=24", "2"]}
    return [
        *engine.score(
            Request(prompt, 0, (), 0, Sampling(1), tuple(Passage((Message("user", prompt),), text) for text in texts))
            for prompt, texts in endings.items()
        )
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of itself
@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # traces as the other does, and compiles nothing
        pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow]),
    ],
)
def test_a_compiled_model_gives_the_same_texts_and_likelihoods(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    plain, compiled = opened(), opened(compile=True, batch_rows=40)
    counters.clear()
    made = []
    for n, temperature in ((2, 1.0), (40, 1.0), (1, 0.0), (7, 0.6)):
        requests = make_requests(n, temperature=temperature)
        expected, found = by_key(plain.generate(requests)), by_key(compiled.generate(requests))
        assert {key: c.text for key, c in found.items()} == {key: c.text for key, c in expected.items()}
        for key, completion in found.items():
            assert completion.tokens.logp_behaviour == pytest.approx(expected[key].tokens.logp_behaviour, abs=1e-5)
        made.append(counters["stats"]["unique_graphs"])
    assert 0 < made[-1] <= 4, "whatever the numbers of rows and columns"
    for ours, theirs in zip(scored(compiled), scored(plain), strict=True):
        assert [one.is_greedy for one in ours.likelihoods] == [one.is_greedy for one in theirs.likelihoods]
        logps = [one.logp for one in theirs.likelihoods]
        assert [one.logp for one in ours.likelihoods] == pytest.approx(logps, abs=1e-4)


def test_the_engine_of_a_training_run_is_not_compiled() -> None:
    engine = opened()
    policy = ModelSource(SOURCE.path, module=engine.module, tokenizer=engine.tokenizer)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"engine\.compile is for evaluations"):
        parse_plugin("engines", {"id": "hf", "compile": True}).build().open(policy)
