"""The sampling parameters that vLLM receives, checked without vLLM: its class stands in by name."""

from __future__ import annotations

import sys
from dataclasses import fields
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness.core.types import Sampling
from harness.engines.vllm import _parameters


@pytest.fixture
def _fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    monkeypatch.setattr(vllm, "SamplingParams", lambda **given: given, raising=False)
    monkeypatch.setattr(parameters, "RequestOutputKind", SimpleNamespace(FINAL_ONLY="final"), raising=False)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)


@pytest.mark.usefixtures("_fake_vllm")
def test_vllm_receives_every_sampling_option_under_its_own_name() -> None:
    sampling = Sampling(8, temperature=0.6, top_p=0.9, top_k=5, min_p=0.1, stop=("x",))
    given: dict[str, Any] = _parameters(sampling, 3, frozenset({2, 1}), with_logp=True)
    assert {name: given[name] for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p")} == {
        "max_tokens": 8,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
    }
    assert given["stop"] == ["x"]
    assert (given["seed"], given["stop_token_ids"], given["logprobs"]) == (3, [1, 2], 0)
    assert {option.name for option in fields(Sampling)} <= given.keys()
