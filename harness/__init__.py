"""Train a language model with FlowRL or a rival, evaluate it, grade and compare outputs, and report.

The names below are the Python API. Each is imported when it is first used; `__init__.pyi` has their types.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "harness.api": ("Run", "Runs", "compare", "evaluate", "grade", "import_completions", "load_runs", "train"),
    "harness.core.errors": ("HarnessError",),
    "harness.core.types": ("Completion", "Estimate", "Message", "Problem", "Verdict"),
}

__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
