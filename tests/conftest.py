"""Slow tests run only with --slow, caches go to a temporary folder, and nothing waits for the disk."""

from __future__ import annotations

import contextlib
import os

import pytest

# Before torch is loaded: workers side by side would take the cores from one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

with contextlib.suppress(ImportError):  # not every environment has the tests that use it
    from hypothesis import settings

    # How long an example takes says how busy the machine is. Where a run decides about a change, it draws the same
    # examples each time; new ones are found by people who run the tests.
    settings.register_profile("any machine", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("any machine")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes as well")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; --slow runs it"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep the caches of the tests out of the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_sync():
    """Write files without waiting for the disk: only a machine that loses its power could show the difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
