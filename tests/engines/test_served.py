"""The openai engine against the servers of vLLM and transformers with the tiny model: the same texts as in process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from vllm_parts import opened, requests
from wide_heads import write_wide_model

from harness.core.config import parse_plugin
from harness.core.protocols import ModelSource

pytest.importorskip("vllm", reason="vllm is not installed; `tox -e vllm-cpu` runs this")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_model(tmp_path_factory.mktemp("wide"))


@contextlib.contextmanager
def serving(log: Path, command: Sequence[str], ready: str, **environment: str) -> Iterator[str]:
    """The base URL of a server that runs meanwhile, once it answers at the path `ready`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(whole, stdout=file, stderr=file, env={**os.environ, **environment})
    try:
        wait_until_it_answers(server, f"http://127.0.0.1:{port}{ready}", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def wait_until_it_answers(server: Any, url: str, log: Path) -> None:
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return


def told(engine: Any) -> dict[tuple[str, int], tuple[Any, ...]]:
    return {
        (c.problem_id, c.index): (c.seed, c.text, c.finish_reason, c.tokens.n_prompt, c.tokens.n_completion)
        for c in engine.generate(requests(20))
    }


def test_vllms_server_gives_the_texts_of_vllm_in_this_process(model: Path, tmp_path: Path) -> None:
    offline = opened(ModelSource(str(model), device="cpu"))
    expected = told(offline)
    offline.close()
    command = ["vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "tiny"]
    command += ["--enforce-eager", "--dtype", "float32", "--kv-cache-memory-bytes", str(2**28)]
    with serving(tmp_path / "log", command, "/health", VLLM_NO_USAGE_STATS="1") as base_url:
        for options in ({}, {"endpoint": "completions", "tokenizer": str(model)}):
            engine = parse_plugin("engines", {"id": "openai", "base_url": base_url, **options}).build()
            engine.open(ModelSource("tiny"))
            assert told(engine) == expected
    facts = engine.describe_model("tiny")
    assert (facts["name"], facts["server"], facts["served owned_by"]) == ("tiny", base_url, "vllm")
    assert facts["served max_model_len"] == "64"


def test_transformers_server_gives_the_texts_of_the_hf_engine(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers serves only with accelerate")
    hf = parse_plugin("engines", "hf").build()
    hf.open(ModelSource(str(model), device="cpu"))
    asked = requests(1, temperature=0.0)
    expected = {completion.problem_id: completion for completion in hf.generate(asked)}
    (tmp_path / "hub").mkdir()
    command = ["transformers.cli.transformers", "serve", "--device", "cpu", "--dtype", "float32"]
    with serving(tmp_path / "log", command, "/v1/models", HF_HUB_CACHE=str(tmp_path / "hub")) as base_url:
        engine = parse_plugin("engines", {"id": "openai", "base_url": base_url}).build()
        engine.open(ModelSource(str(model)))
        answers = list(engine.generate(asked))
    for answer in answers:
        same = expected[answer.problem_id]
        # This server writes the end token too, and, with this tokenizer, the prompt.
        assert answer.text.removesuffix("<eos>").endswith(same.text)
        assert answer.finish_reason == same.finish_reason
        assert (answer.tokens.n_prompt, answer.tokens.n_completion) == (same.tokens.n_prompt, same.tokens.n_completion)
