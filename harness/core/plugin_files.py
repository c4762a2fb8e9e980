"""Plug-ins by the path of a file, for quick work: `--set objective.id=./my_loss.py`.

The file is imported once under the name `harness_files.<digest of its path>.<its stem>`. Its digest goes into the run
record, since its path does not identify it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from harness.core.errors import HarnessError, PluginError

SUFFIX = ".py"
_loaded: dict[str, str] = {}


def is_file(plugin_id: str) -> bool:
    """Whether an id is the path of a file."""
    return plugin_id.endswith(SUFFIX)


def load_file(path: str) -> ModuleType:
    """Import a file, or raise a PluginError that names the line at which it fails."""
    if not Path(path).is_file():
        raise PluginError(f"there is no file {path}; a plug-in is named by its id or by the path of a Python file")
    module = _imported(str(Path(path).resolve()), path)
    _loaded[path] = str(module.__dict__["__digest__"])
    return module


@functools.cache
def _imported(resolved: str, path: str) -> ModuleType:
    name = f"harness_files.{hashlib.sha256(resolved.encode()).hexdigest()[:12]}.{Path(resolved).stem}"
    if name in sys.modules:  # another spelling of the path
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"{path}{line_of(error, resolved)} raises on import: {described(error)}") from error
    module.__dict__["__digest__"] = hashlib.sha256(Path(resolved).read_bytes()).hexdigest()[:16]
    return module


def loaded_files() -> dict[str, str]:
    """Return the digest of each file that a plug-in was loaded from in this process, by its path."""
    return dict(_loaded)


def line_of(error: Exception, file: str | None = None) -> str:
    """Return `:12`, the last line of a file that an error passed through, or the line of a syntax error in it."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f":{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f":{frames[-1].lineno}" if frames else ""


def described(error: Exception) -> str:
    """Return the error on one line."""
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return text if isinstance(error, HarnessError) else f"{type(error).__name__}: {text}"
