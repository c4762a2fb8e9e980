"""The lock of a run folder: one process at a time writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import RunFolderError
from harness.runs.files import open_regular
from harness.runs.jsonl import disk_error

_LOCK_TRIES, _BETWEEN_TRIES_S = 4, 0.05


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Create and lock the folder; release it again only if the block raises."""
    lock = _lock(folder)
    try:
        yield lock
    except BaseException:
        os.close(lock)
        raise


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = open_regular(folder / "run.lock", os.O_RDWR | os.O_CREAT)
    except (FileExistsError, PermissionError) as error:
        raise RunFolderError(f"{folder} can't be a run folder: {error.strerror}; choose another --out") from None
    except OSError as error:
        raise disk_error(folder, error) from error
    try:
        _acquire(descriptor)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise RunFolderError(f"{folder} can't be locked: {error.strerror}; choose another --out") from None
        raise in_use_error(folder) from None
    return descriptor


def _acquire(descriptor: int) -> None:
    """Take the lock or raise BlockingIOError. Retries, because `is_held` of another process takes it for an instant."""
    for _ in range(_LOCK_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_BETWEEN_TRIES_S)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def in_use_error(folder: Path) -> RunFolderError:
    return RunFolderError(f"{folder} is being written by another harness process; wait for it, or end it")


def is_held(folder: Path) -> bool:
    """Return whether a process has this folder open for writing, as far as this machine can tell."""
    try:
        descriptor = open_regular(folder / "run.lock", os.O_RDONLY)
    except (OSError, RunFolderError):  # never locked, or copied without the lock
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
