"""The page of runs that may still be growing: built again when their files have changed."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.core.errors import HarnessError, RunFolderError
from harness.reports.page.build import Page
from harness.reports.report import named_runs, report_page
from harness.reports.run_config import run_config
from harness.reports.run_facts import labels
from harness.reports.samples import samples_of
from harness.runs.folder import RunReader
from harness.runs.lock import is_held
from harness.runs.search import find_runs

EVERY_S = 2.0
"""Between two looks at the files."""
MOST_SHARE = 0.2
"""Of the time that building may take, so that the runs get the processor."""
KEPT = 2
"""States whose samples are at hand: the newest, and the one that an open page may still show."""
NOT_SHOWN = ("log.txt", "run.lock")


@dataclass(frozen=True, slots=True)
class State:
    """The newest page and, if it could not be built again, the reason."""

    main: int
    """Number of the chunk that the page begins with. Every state has another one."""
    made: str
    error: str | None = None


class LivePage:
    """The page of the runs among and below some paths. It reads the run folders and never writes to them."""

    def __init__(self, paths: Sequence[Path], names: Mapping[str, str]) -> None:
        """Build it for the first time; raise if the runs can't be read. `names` labels runs, by their id or path."""
        self._paths, self._names = list(paths), names
        self._labels: dict[Path, str | None] = {}
        """Every run found so far, with the label that it was given."""
        self._pages: deque[Page] = deque()
        self._n_chunks = 0
        self._stamp = self._stamp_now()
        self.took_s = 0.0
        self.state = self._build()

    def __enter__(self) -> LivePage:
        return self

    def __exit__(self, *_error: object) -> None:
        while self._pages:
            self._pages.pop().close()

    def html(self) -> str:
        return self._pages[-1].served_html()

    def chunk(self, number: int) -> bytes | None:
        """Return a chunk of one of the last states, or None. Any thread may call it."""
        for page in list(self._pages):
            try:
                if (text := page.chunk(number)) is not None:
                    return text
            except (OSError, ValueError):  # closed since, as a newer state was built
                continue
        return None

    def watch(self, stop: threading.Event) -> None:
        """Build the page again whenever a file has changed, until the event is set."""
        while not stop.wait(max(EVERY_S, self.took_s / MOST_SHARE)):
            self.refresh()

    def refresh(self) -> None:
        """Build the page again if a file has changed since. If that fails, the last one stays, with the reason."""
        try:
            stamp = self._stamp_now()
            if stamp != self._stamp:
                self.state = self._build()
                self._stamp = stamp
        except HarnessError as error:  # tried again at the next look
            self.state = dataclasses.replace(self.state, error=str(error))
        except Exception as error:  # a folder may be removed or altered while it is read; the page states it
            self.state = dataclasses.replace(self.state, error=f"{type(error).__name__}: {error}")

    def _build(self) -> State:
        began_s = time.monotonic()
        runs = self._read_runs()
        gone = [folder for folder in self._labels if all(folder != run.folder for run in runs)]
        so_far = [_so_far(run, label) for run, label in zip(runs, labels(runs), strict=True) if run.status != "done"]
        warnings = [*so_far, *(f"GONE: {folder} is no longer there" for folder in gone)]
        page = report_page(runs, warnings=warnings, first_chunk=self._n_chunks)
        self._n_chunks = page.main + 1
        self._pages.append(page)
        if len(self._pages) > KEPT:
            self._pages.popleft().close()
        self.took_s = time.monotonic() - began_s
        return State(page.main, datetime.now().astimezone().isoformat(timespec="seconds"))

    def _read_runs(self) -> list[RunReader]:
        runs = [RunReader.read(folder) for folder in self._folders()]
        if not self._labels:
            runs = named_runs(runs, self._names)
        self._labels = {**{run.folder: run.label for run in runs}, **self._labels}
        return [dataclasses.replace(run, label=self._labels[run.folder]) for run in runs]

    def _folders(self) -> Sequence[Path]:
        there = [path for path in self._paths if path.exists()] if self._labels else self._paths
        if not there:
            raise RunFolderError(f"{', '.join(map(str, self._paths))}: no longer there")
        return find_runs(there).folders

    def _stamp_now(self) -> object:
        """Return what changes with the runs: sizes and times of their files, and whether a process holds them."""
        return [(folder, is_held(folder), sorted(_files(folder))) for folder in self._folders()]


def _so_far(run: RunReader, label: str) -> str:
    """Return how far a run has come. Its estimates are there only at its end."""
    if run.record.kind == "train":
        steps, n_steps = run.steps(), run_config(run).n_steps
        return f"{label}: step {steps[-1]['step'] if steps else 0}" + (f" of {n_steps}" if n_steps is not None else "")
    tasks = [
        f"{of.n_samples} samples of {task}, {int(of.n_right.sum())} of {int(of.n_graded.sum())} graded right"
        for task, of in samples_of(run).items()
    ]
    return f"{label}: {'; '.join(tasks) if tasks else 'no sample is graded'} so far"


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name not in NOT_SHOWN and not entry.name.endswith(".tmp"):
                stat = entry.stat(follow_symlinks=False)
                yield entry.name, stat.st_size, stat.st_mtime_ns
