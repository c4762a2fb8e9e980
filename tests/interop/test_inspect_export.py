"""The settings of an exported inspect task."""

from __future__ import annotations

import pytest

from harness.core.errors import ConfigError
from harness.core.types import Sampling
from harness.interop import inspect_export
from harness.interop.inspect_export import _settings


def test_sampling_options_have_inspects_names() -> None:
    assert _settings(Sampling(8)) == {"max_tokens": 8, "temperature": 1.0}
    assert _settings(Sampling(8, 0.5, top_k=3, stop=("x",))) == {
        "max_tokens": 8,
        "temperature": 0.5,
        "top_k": 3,
        "stop_seqs": ["x"],
    }


def test_a_sampling_option_that_inspect_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(inspect_export._IN_INSPECT, "top_k")
    assert _settings(Sampling(8)) == {"max_tokens": 8, "temperature": 1.0}
    with pytest.raises(ConfigError, match=r"leave sampling\.top_k off"):
        _settings(Sampling(8, top_k=3))
