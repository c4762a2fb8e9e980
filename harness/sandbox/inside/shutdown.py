"""End a program's process as Python would: flush files and run finalizers.

The interpreter itself is not shut down, which would take longer than most programs run.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import itertools
import os
import sys
import threading
import types
from typing import Any, NoReturn

_CODE = (types.FunctionType, type, types.ModuleType)
_WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def leave(status: int, names: dict[str, Any] | None = None, n_given: int = 0) -> NoReturn:
    """End this process. Release the program's `names`, except the first few that it was given."""
    try:
        _wait_for_threads()
        atexit._run_exitfuncs()
        _flush(sys.stdout)
        if status == 0 and names is not None:
            with contextlib.suppress(Exception):  # of a thread that is still running
                _let_go(names, n_given)
            _flush_all()
            with contextlib.suppress(Exception):
                _flush(sys.__stdout__)
    except BaseException:
        status = status if status else 1
    os._exit(status)


def _wait_for_threads() -> None:
    # Since Python 3.13 there is no such list, and looking costs nothing.
    if getattr(threading, "_shutdown_locks", True) or threading._threading_atexits:  # type: ignore[attr-defined]
        threading._shutdown()  # type: ignore[attr-defined]


def _flush(file: Any) -> None:
    if file is not None and not getattr(file, "closed", False):
        file.flush()


def _let_go(names: dict[str, Any], n_given: int) -> None:
    """Release names in reverse order, since a finalizer may need earlier ones; functions, classes and modules last.
    Nothing else is visited: that would write to shared memory, which is slow.
    """
    own = [(name, names[name]) for name in itertools.islice(reversed(names), max(0, len(names) - n_given))]
    data = [name for name, value in own if not isinstance(value, _CODE)]
    code = [name for name, value in own if isinstance(value, _CODE)]
    del own
    for name in [*data, *code]:
        names[name] = None


def _flush_all() -> None:
    """Flush text streams first, as they write into the others."""
    files = [each for each in gc.get_objects() if issubclass(type(each), _WRITERS)]
    for file in sorted(files, key=lambda file: not issubclass(type(file), io.TextIOWrapper)):
        with contextlib.suppress(Exception):  # a program may have damaged it
            _flush(file)
