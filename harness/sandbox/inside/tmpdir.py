"""The folder that a program may write to: empty at its start, bounded while it runs, emptied after it.

Nothing is done for a program that did not touch it. In namespaces it is an in-memory file system that ends with the
worker. Elsewhere it is a folder on disk, which is removed by the worker at its end, by the worker's parent if the
worker was killed, and by the next worker of this user if both were.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Protocol

from . import syscalls

MOST_BYTES, MOST_FILES = 16 << 20, 1024
HOLDER = "/scratch"
"""In namespaces: the folder, itself read-only, in which the file system is mounted."""
_PLACE = f"{HOLDER}/here"
_PREFIX = "harness-scratch-"
_OLD_S = 60.0


class Scratch(Protocol):
    path: str
    on_disk: str | None
    """The folder that may be left behind if the worker is killed."""

    def is_over(self) -> bool:
        """Return whether the running program exceeds its bounds. Checked ten times a second."""
        ...

    def tidy(self) -> None:
        """Empty it if it was touched. Raises OSError on failure."""
        ...

    def remove(self) -> None: ...


class MountedScratch:
    """A small in-memory file system. The kernel enforces its bounds; a used one is replaced."""

    path: str = _PLACE
    on_disk: str | None = None

    def __init__(self) -> None:
        self._mount()

    def _mount(self) -> None:
        options = f"size={MOST_BYTES},nr_inodes={MOST_FILES},mode=700"
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("none", _PLACE, "tmpfs", flags, options)
        os.chdir(_PLACE)
        self._unused = self._free()

    def _free(self) -> tuple[int, int]:
        space = os.statvfs(".")
        return space.f_bfree, space.f_ffree

    def is_over(self) -> bool:
        return False

    def tidy(self) -> None:
        if self._free() != self._unused:
            syscalls.unmount(_PLACE)
            self._mount()

    def remove(self) -> None:
        pass


class FolderScratch:
    """A folder on disk. Its bounds are checked periodically, so a program can exceed them for a tenth of a second."""

    def __init__(self, parent: str) -> None:
        for name in os.listdir(parent):
            if name.startswith(_PREFIX):
                remove_if_left(f"{parent}/{name}", _OLD_S)
        self.path: str = f"{parent}/{_PREFIX}{os.urandom(8).hex()}"
        self.on_disk: str | None = self.path
        os.mkdir(self.path, 0o700)
        self._lock = _locked(self.path)
        os.chdir(self.path)
        self._note_untouched()

    def _note_untouched(self) -> None:
        os.utime(self.path, (0, 0))

    def _is_touched(self) -> bool:
        return os.stat(self.path).st_mtime_ns != 0

    def is_over(self) -> bool:
        return self._is_touched() and _is_over(self.path)

    def tidy(self) -> None:
        if self._is_touched():
            empty(self.path)
            self._note_untouched()

    def remove(self) -> None:
        os.chdir("/")
        empty(self.path)
        os.rmdir(self.path)
        os.close(self._lock)


def remove_if_left(path: str, old_s: float = 0.0, patience_s: float = 0.0) -> None:
    """Remove the folder of a worker that is gone or about to go. One in use is locked."""
    if not os.path.basename(path).startswith(_PREFIX):
        raise ValueError(f"{path} is not a folder of a worker")
    with contextlib.suppress(OSError):  # another user's, or another process was faster
        if time.time() - os.lstat(path).st_ctime < old_s:
            return
        lock = _locked(path, patience_s)
        try:
            empty(path)
            os.rmdir(path)
        finally:
            os.close(lock)


def _locked(path: str, patience_s: float = 0.0) -> int:
    until = time.monotonic() + patience_s
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() >= until:
                os.close(fd)
                raise
            time.sleep(0.002)


def _is_over(path: str) -> bool:
    waiting, n_files, n_bytes = [path], 0, 0
    while waiting and n_files <= MOST_FILES and n_bytes <= MOST_BYTES:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:  # a program may change it meanwhile
            for entry in entries:
                n_files += 1
                n_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                if n_files > MOST_FILES:
                    break
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return n_files > MOST_FILES or n_bytes > MOST_BYTES


def empty(path: str) -> None:
    """Remove everything in a folder at any depth: the content of a subfolder is first moved to the top."""
    n_moved = 0
    while entries := [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in os.scandir(path)]:
        for entry, is_folder in entries:
            if not is_folder:
                os.unlink(entry)
                continue
            os.chmod(entry, 0o700)
            for name in os.listdir(entry):
                if os.path.isdir(f"{entry}/{name}") and not os.path.islink(f"{entry}/{name}"):
                    os.chmod(f"{entry}/{name}", 0o700)  # or it could not be moved
                    os.rename(f"{entry}/{name}", f"{path}/.moved-{n_moved}-{os.urandom(8).hex()}")
                    n_moved += 1
                else:
                    os.unlink(f"{entry}/{name}")
            os.rmdir(entry)
