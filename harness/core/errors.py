"""Errors for the user. Each message says what happened, where, and what to do next.

HarnessError
├── UsageError            exit 2: the request is wrong, nothing was written
│   ├── UnknownNameError      a task, objective, model ... that does not exist; names the nearest
│   ├── ConfigError           an unknown key, a wrong type, a value out of range
│   ├── PluginError           a plug-in that lacks a part of its base class, or two with one id
│   ├── MissingExtraError     an optional package is absent; names the extra to install
│   ├── DataError             a data file that is absent, altered, gated or malformed
│   ├── ModelError            a model folder or hub id that can't be loaded or can't do what is asked
│   ├── ClusterError          no Ray cluster at an address, or a node that lacks what the run needs
│   └── RunFolderError        a folder that is not a run, is in use, or belongs to another config
└── RunError              exit 1: the run stopped; its folder can be resumed
    ├── DiskError             a write failed (a full disk, a quota)
    ├── EngineError           an engine failed, or returned something that was not requested
    └── SandboxError          the sandbox itself failed, whatever the program did
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of the errors that the command line prints as one line."""

    exit_code = 1


class UsageError(HarnessError):
    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist. The message ends with the nearest ones."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no {what} is called {name!r}; {nearest(name, known)}")


class ConfigError(UsageError):
    pass


class PluginError(UsageError):
    pass


class MissingExtraError(UsageError):
    pass


class DataError(UsageError):
    pass


class ModelError(UsageError):
    pass


class ClusterError(UsageError):
    pass


class RunFolderError(UsageError):
    pass


class RunError(HarnessError):
    pass


class DiskError(RunError):
    pass


class EngineError(RunError):
    pass


class SandboxError(RunError):
    pass


LISTED = 24


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ..." for a misspelt name or a part of one, or list the names if none is near."""
    names = sorted(known)
    close = [known_name for known_name in names if name in known_name.split("-")]
    close = close if close else [known_name for known_name in names if len(name) > 3 and known_name.startswith(name)]
    close = close if close else difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"there is {', '.join(names[:LISTED])}{more}" if names else "there is none"
