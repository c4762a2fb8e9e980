"""Every engine that this machine can run: one completion a request, decided by its seed, ended where it should be.

Each engine has a test module of its own for what it promises beyond this.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from countdown_requests import PROMPTS, make_requests
from loopback_server import MODEL, LoopbackServer
from training_parts import tiny_source
from wide_heads import write_wide_model

from harness.cli import main
from harness.core.config import parse_plugin
from harness.core.protocols import ModelSource
from harness.core.types import Completion

ENGINES = ["hf", "scripted", "vllm", "openai", "ray"]


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


def comparable(completions: Any) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return everything but the log-probabilities, which may differ in their last bits."""
    return {
        (c.problem_id, c.index): (c.seed, c.text, c.finish_reason, c.tokens.n_completion, c.tokens.completion_ids)
        for c in completions
    }


def test_engine_gives_exactly_one_completion_for_each_request(engine: Any) -> None:
    asked = make_requests(5)
    answered = list(engine.generate(asked))
    assert sorted((c.problem_id, c.index, c.seed) for c in answered) == sorted(
        (r.problem_id, r.index, r.seed) for r in asked
    )


def test_same_seed_gives_the_same_text_in_any_batch_and_order(engine: Any) -> None:
    asked = make_requests(40)
    together = comparable(engine.generate(asked))
    shuffled = random.Random(0).sample(asked, len(asked))
    assert comparable(engine.generate(shuffled)) == together
    alone = comparable(c for request in asked[::17] for c in engine.generate([request]))
    assert alone == {key: together[key] for key in alone}
    assert len({text for _, text, *_ in together.values()}) > 1


def test_budget_and_finish_reason_agree(engine: Any) -> None:
    for completion in engine.generate(make_requests(8, max_tokens=3)):
        assert completion.tokens.n_completion <= 3
        if completion.finish_reason == "length":
            assert completion.tokens.n_completion == 3


def test_no_requests_give_no_completions(engine: Any) -> None:
    assert list(engine.generate([])) == []


def test_completions_stream_and_a_stream_can_be_left(engine: Any) -> None:
    stream = engine.generate(make_requests(40) + make_requests(4, max_tokens=5))
    assert isinstance(next(stream), Completion)
    stream.close()
    assert len(list(engine.generate(make_requests(2)))) == 2 * len(PROMPTS)


def test_stop_strings_are_not_in_the_text(engine: Any) -> None:
    free = comparable(engine.generate(make_requests(8)))
    stopped = comparable(engine.generate(make_requests(8, stop=(";",))))
    if isinstance(free["p0", 0][4], tuple):  # a fake, or a server, has its own idea of what to write
        assert {key: text for key, (_, text, *_) in stopped.items()} == {
            key: text.partition(";")[0] for key, (_, text, *_) in free.items()
        }
    assert not any(";" in text for _, text, *_ in stopped.values())


@pytest.mark.parametrize(("name", "extra"), [("vllm", "vllm"), ("openai", "server"), ("ray", "ray")])
def test_missing_engine_package_is_one_line_with_the_extra(
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
    message = capsys.readouterr().err
    assert message.startswith(
        f"harness: the engine {name} needs the extra '{extra}': pip install 'flowrl-harness[{extra}]"
    )
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()
