"""Progress on stderr: one live line on a terminal, an occasional line elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

from harness.core.text import printable

LIVE_EVERY_S = 0.1
LINE_EVERY_S = 15.0
WORKING_LIVE_EVERY_S, WORKING_LINE_EVERY_S = 0.5, 4.0
"""Between reports of work that has no count. Nobody waits for more than 5 s without one."""
UNKNOWN_COLUMNS = 80


class Progress:
    """Counts, rate and remaining time of one piece of work, followed by a few figures."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._is_live = self._stream.isatty()
        self._width = 0
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self.label = ""
        """Printed before every title, to tell several evaluations apart."""
        self.begin("", 0)

    @property
    def is_quiet(self) -> bool:
        return self._quiet

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Start another piece of work, of which `done` items exist already. A total of 0 is unknown."""
        self._title, self._total, self._done, self._first = title, total, done, done
        self._began_s = self._shown_s = time.monotonic()
        self._figures: Mapping[str, float] = {}

    def advance(self, count: int = 1, figures: Mapping[str, float] | None = None) -> None:
        self._done += count
        self._figures = figures if figures is not None else self._figures
        if time.monotonic() - self._shown_s >= (LIVE_EVERY_S if self._is_live else LINE_EVERY_S):
            self._show("\r" if self._is_live else "\n")

    def end(self) -> None:
        self._show("\n")

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Report work without a count, such as loading a model, again and again while it lasts."""
        done, began_s = threading.Event(), time.monotonic()
        every_s, end = (WORKING_LIVE_EVERY_S, "\r") if self._is_live else (WORKING_LINE_EVERY_S, "\n")

        def report() -> None:
            while not done.wait(every_s):
                self._write(f"{self.label}{text} ... {duration(time.monotonic() - began_s)}", end)

        reporter = threading.Thread(target=report, daemon=True)
        if not self._quiet:
            reporter.start()
        try:
            yield
        finally:
            done.set()
            if not self._quiet:
                reporter.join()
                self._clear_live_line()

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if not self._quiet:
            self._write(text, "\n")

    def warn(self, text: str) -> None:
        """Print a warning once, also when quiet."""
        if text in self._warned:
            return
        self._warned.add(text)
        self._write(f"warning: {text}", "\n")

    def _show(self, end: str) -> None:
        self._shown_s = time.monotonic()
        if not self._quiet:
            self._write(self._line(), end)

    def _line(self) -> str:
        elapsed_s = max(time.monotonic() - self._began_s, 1e-9)
        rate = (self._done - self._first) / elapsed_s
        left = f", {duration((self._total - self._done) / rate)} left" if rate > 0 and self._done < self._total else ""
        figures = "".join(f"  {name} {value:.3g}" for name, value in self._figures.items())
        of_total = f"/{self._total}" if self._total else ""
        return f"{self.label}{self._title} {self._done}{of_total}  {_rate(rate)}{left}{figures}"

    def _clear_live_line(self) -> None:
        if self._is_live and self._width > 0:
            self._write("", "\r")

    def _write(self, text: str, end: str) -> None:
        text = printable(text)
        if end == "\r":  # a line that wraps can't be overwritten
            text = text[: self._columns() - 1]
        with self._lock:
            padding = " " * max(0, self._width - len(text)) if self._is_live else ""
            self._width = len(text) if end == "\r" else 0
            self._stream.write(text + padding + end)
            self._stream.flush()

    def _columns(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:  # a stream that claims to be a terminal and is not
            return UNKNOWN_COLUMNS
        return columns if columns > 0 else UNKNOWN_COLUMNS


def _rate(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each" if rate > 0 else "-"


def duration(seconds: float) -> str:
    """Return seconds as text, such as 1h05m, 3m20s or 12s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
