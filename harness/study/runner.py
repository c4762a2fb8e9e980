"""The scheduler of a study: each job runs in a worker process or on Ray, after the jobs that it waits for."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal, Protocol

from harness.core.errors import DiskError
from harness.study.jobs import ControlJob, EvalJob, Job, Outcome, TrainJob, work

WATCH_EVERY_S = 0.5
GRACE_S = 3.0


Kind = Literal["train", "eval", "control"]
_KINDS: Mapping[type, Kind] = {TrainJob: "train", EvalJob: "eval", ControlJob: "control"}


@dataclass(frozen=True, slots=True)
class Task:
    """A job, its share of the study, and the label of the job that must be done before it."""

    job: Job
    arm: str
    units: int
    """Steps to train, or evaluations."""
    after: str | None = None

    @property
    def kind(self) -> Kind:
        return _KINDS[type(self.job)]

    @property
    def label(self) -> str:
        return self.job.label


@dataclass(slots=True)
class Progression:
    """The state of all tasks, by label."""

    waiting: dict[str, Task]
    running: dict[str, Task] = field(default_factory=dict)
    ended: dict[str, Outcome] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Tasks that can't run, and the task that failed before them."""

    def take(self) -> Task | None:
        """Return the next task to run. What waited for another comes first, so that results come early."""
        ready = [t for t in self.waiting.values() if t.after not in self.waiting and t.after not in self.running]
        ready.sort(key=lambda task: task.after is None)
        if not ready:
            return None
        task = self.waiting.pop(ready[0].label)
        self.running[task.label] = task
        return task

    def end(self, label: str, outcome: Outcome) -> None:
        del self.running[label]
        self.ended[label] = outcome
        if outcome.error is not None:
            for task in [task for task in self.waiting.values() if task.after == label]:
                del self.waiting[task.label]
                self.skipped[task.label] = label


class Pool(Protocol):
    """Where jobs run."""

    def has_room(self) -> bool: ...

    def start(self, task: Task) -> None: ...

    def is_busy(self) -> bool: ...

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait a moment and return the tasks that have ended."""
        ...


def run_tasks(
    tasks: Sequence[Task],
    pool: Pool,
    *,
    ended: Callable[[Task, Outcome], None],
    watch: Callable[[Progression], None],
) -> Progression:
    """Run all tasks; `ended` is called after each, `watch` about twice a second.

    A task that fails stops nothing but those that wait for it. Only a full disk stops the others from beginning.
    """
    state = Progression({task.label: task for task in tasks})
    disk: Outcome | None = None
    while True:
        while disk is None and pool.has_room() and (task := state.take()) is not None:
            pool.start(task)
        if not pool.is_busy():
            break
        for task, outcome in pool.finished():
            state.end(task.label, outcome)
            disk = outcome if outcome.is_disk_full else disk
            ended(task, outcome)
        watch(state)
    if disk is not None:
        raise DiskError(f"{disk.error}; the cells that are done stay, and the same command runs the others")
    return state


# --- workers ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Worker:
    """A process that runs one job after the other; it is started with the first, and again when it has died."""

    threads: int
    process: BaseProcess | None = None
    pipe: Connection | None = None
    task: Task | None = None

    def start(self, task: Task) -> None:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=work, args=(theirs, self.threads))
            self.process.start()
            theirs.close()
        assert self.pipe is not None
        self.task = task
        with contextlib.suppress(BrokenPipeError):  # it has died in between, and the result will say so
            self.pipe.send(task.job)

    def result(self) -> tuple[Task, Outcome]:
        """Return the task that has ended, and how."""
        assert self.task is not None and self.pipe is not None and self.process is not None
        task, self.task = self.task, None
        try:
            return task, self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return task, Outcome(0.0, _death(self.process.exitcode))

    def stop(self) -> None:
        """End the process: politely if it is idle, else after a moment, in which it may end by an interrupt itself."""
        if self.process is None:
            return
        if self.task is None and self.pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                self.pipe.send(None)
        self.process.join(GRACE_S)
        self.process.terminate()  # no effect on one that has ended
        self.process.join()


class ProcessPool:
    """Worker processes on this machine."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._workers = workers

    def has_room(self) -> bool:
        return any(worker.task is None for worker in self._workers)

    def start(self, task: Task) -> None:
        next(worker for worker in self._workers if worker.task is None).start(task)

    def is_busy(self) -> bool:
        return any(worker.task is not None for worker in self._workers)

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait a moment and return the tasks that have ended, or whose process has."""
        by_pipe: Mapping[object, _Worker] = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        return [by_pipe[pipe].result() for pipe in wait(list(by_pipe), WATCH_EVERY_S)]  # type: ignore[arg-type]


@contextlib.contextmanager
def processes(count: int, threads: int) -> Iterator[ProcessPool]:
    workers = [_Worker(threads) for _ in range(count)]
    try:
        yield ProcessPool(workers)
    finally:
        for worker in workers:
            worker.stop()


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        memory = ", as the system does when memory runs out" if exit_code == -9 else ""
        return f"its process was killed by signal {-exit_code}{memory}; run the same command again, or lower --parallel"
    return f"its process ended by itself, with exit code {exit_code}; run the same command again"
