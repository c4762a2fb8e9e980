"""Fixtures of the architecture tests: the checkout, a copy of it to spoil, and fresh interpreters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REAL_FOLDERS = ("harness", "tasks", "trainers", "reports")

Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def checkout() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture
def copied_checkout(checkout: Path, tmp_path: Path) -> Path:
    """The four folders, their links and pyproject.toml, to be spoilt."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for folder in REAL_FOLDERS:
        shutil.copytree(checkout / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(checkout / "pyproject.toml", copy)
    return copy


@pytest.fixture
def python() -> Python:
    """Run a fresh interpreter on the package under test, or on that in the folder `on_path`."""

    def run(*arguments: object, cwd: Path, on_path: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
        if on_path is not None:
            environment["PYTHONPATH"] = str(on_path)
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    return run
