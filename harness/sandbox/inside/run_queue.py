"""How long a program was ready to run while its core was busy with others, from the kernel's scheduler statistics.

Its wall limit is for sleepers, so this time is not counted. A thread that sleeps or waits for another is not ready.
"""

from __future__ import annotations

import contextlib
import os
import time

_MOST_THREADS = 64
_READ_BYTES = 4096


def open_proc() -> int | None:
    """Return the folder of processes, which a jail hides later; None if there is none."""
    try:
        return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


class Waiting:
    """Measures one process. `total_s` stays 0 where the kernel does not report it."""

    def __init__(self, proc: int | None, handle: int, began: float) -> None:
        """`handle` is the pidfd of the process, whose number in `proc` may differ from the one that we see."""
        self._proc, self._handle, self._looked_at = proc, handle, began
        self._threads: int | None = None
        self._known: dict[str, int] = {}
        self.total_s = 0.0

    def look(self) -> None:
        """Add the time since the last look in which the thread that waited longest was waiting."""
        now = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # the process has ended, or the kernel does not count
            found = self._delays_ns()
            longest = max((delay - self._known.get(thread, 0) for thread, delay in found.items()), default=0) / 1e9
            self.total_s += min(longest, now - self._looked_at)
            self._known, self._looked_at = found, now

    def close(self) -> None:
        if self._threads is not None:
            os.close(self._threads)

    def _delays_ns(self) -> dict[str, int]:
        if self._threads is None:
            if self._proc is None:
                return {}
            number = int(_read(self._proc, f"self/fdinfo/{self._handle}").partition("Pid:")[2].split()[0])
            self._threads = os.open(f"{number}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
        names = os.listdir(self._threads)[:_MOST_THREADS]
        return {name: int(_read(self._threads, f"{name}/schedstat").split()[1]) for name in names}


def _read(folder: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, _READ_BYTES).decode()
    finally:
        os.close(fd)
