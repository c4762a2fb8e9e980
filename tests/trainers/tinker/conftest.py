"""A fake server for the tests of this folder, in the place of the one that the client library connects to."""

from __future__ import annotations

import pytest
from fake_tinker import FakeTinker

from harness.models import tinker_server as module


@pytest.fixture
def make_fake(monkeypatch):
    """Return a function that makes the fake server; it is closed at the end."""
    pytest.importorskip("tinker")
    made = []
    monkeypatch.delenv(module.KEY_VARIABLE, raising=False)
    monkeypatch.setattr(module, "_SLICE_S", 0.05)

    def make(**options):
        fake = FakeTinker(**options)
        made.append(fake)
        monkeypatch.setattr(module, "_new_service", fake.service)
        monkeypatch.setattr(module, "_unload", fake.unload)
        return fake

    yield make
    for fake in made:
        fake.close()


@pytest.fixture
def fake(make_fake):
    return make_fake()
