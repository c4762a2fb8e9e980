"""Whether the hub can be reached, and the offline mode of its client where it can't."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from hub_server import running_hub
from huggingface_hub import constants

from harness.core.hub import offline_if_unreachable

UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def others(monkeypatch):
    """The settings of `datasets`, which copies the client's when it is imported."""
    found = SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "datasets.config", found)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return found


def test_libraries_are_offline_while_the_hub_is_unreachable(others, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", UNREACHABLE)
    with offline_if_unreachable() as reason:
        assert reason.startswith(UNREACHABLE)
        assert constants.HF_HUB_OFFLINE and others.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE and not others.HF_HUB_OFFLINE


def test_libraries_stay_online_where_the_hub_answers(others, monkeypatch):
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        with offline_if_unreachable() as reason:
            assert reason is None
            assert not constants.HF_HUB_OFFLINE and not others.HF_HUB_OFFLINE
