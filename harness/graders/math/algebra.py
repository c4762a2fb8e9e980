"""Ask math-verify whether two expressions are equal, in worker processes that can be killed.

There is one pool per process, shared by all graders and threads. Workers are fresh interpreters, started on first use
and closed at exit. The parent enforces the time limit and the kernel the memory limit, so no signal or alarm is
needed, and a worker that dies affects only its own question. A forked child starts its own workers.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
START_S = 60.0
MAX_ANSWER_BYTES = 65_536


class WorkerDiedError(Exception):
    """The worker died during this question: it ran out of memory, or was killed."""


class WorkerTooSlowError(Exception):
    """The question exceeded its time limit, and its worker was killed."""


class _Worker:
    def __init__(self, memory_bytes: int) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(WORKER),
                str(memory_bytes),
            ],  # -P: keep this folder off sys.path, so that its `math.py` does not shadow the standard module
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            start_new_session=True,  # the parent handles a keyboard interrupt by closing the pool
        )
        self._unread = b""
        try:
            self._read(START_S)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, gold: str, answer: str, wall_s: float, reading: str) -> bool:
        assert self._process.stdin is not None
        question = memoryview(json.dumps([reading, gold, answer]).encode() + b"\n")
        try:
            while question:
                question = question[self._process.stdin.write(question) :]
        except OSError:
            raise WorkerDiedError("the worker had died") from None
        verdict = json.loads(self._read(wall_s))
        if not isinstance(verdict, bool):
            raise WorkerDiedError(f"the worker failed: {verdict}")
        return verdict

    def _read(self, wall_s: float) -> bytes:
        """Read one line within the time limit."""
        assert self._process.stdout is not None
        poll, until = select.poll(), time.monotonic() + wall_s
        poll.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._unread:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise WorkerTooSlowError(f"longer than {wall_s:g} s")
            part = os.read(self._process.stdout.fileno(), MAX_ANSWER_BYTES)
            if not part:
                raise WorkerDiedError("the worker died")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.kill()
        self._process.wait()

    def abandon(self) -> None:
        """Drop a worker that belongs to the process from which this one was forked."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.returncode = 0  # avoids a warning about a child of another process


class AlgebraPool:
    """At most `n_workers` workers; a thread that finds none free waits."""

    def __init__(self, n_workers: int, memory_bytes: int) -> None:
        self._n_workers, self._memory_bytes = n_workers, memory_bytes
        self._begin()

    def _begin(self) -> None:
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self._n_workers):
            self._idle.put(None)
        self._alive: set[_Worker] = set()
        self._guard = threading.Lock()

    def equal(self, gold: str, answer: str, wall_s: float, reading: str = "expression") -> bool:
        """Return whether two expressions are equal. `reading` is one of the worker's.

        WorkerDiedError and WorkerTooSlowError concern this question only.
        """
        idle, worker = self._idle, self._idle.get()
        try:
            if worker is None:
                worker = self._start()
            verdict = worker.ask(gold, answer, wall_s, reading)
        except BaseException:
            if worker is not None:
                self._end(worker)
            idle.put(None)
            raise
        idle.put(worker)
        return verdict

    def pids(self) -> list[int]:
        with self._guard:
            return [worker.pid for worker in self._alive]

    def close(self) -> None:
        """Close the workers; the next question starts new ones."""
        with self._guard:
            workers, self._alive = self._alive, set()
        for worker in workers:
            worker.close()
        self._begin()

    def forget(self) -> None:
        """Drop the workers in a forked child."""
        for worker in self._alive:
            worker.abandon()
        self._begin()

    def _start(self) -> _Worker:
        worker = _Worker(self._memory_bytes)
        with self._guard:
            self._alive.add(worker)
        return worker

    def _end(self, worker: _Worker) -> None:
        with self._guard:
            self._alive.discard(worker)
        worker.close()


POOL = AlgebraPool(n_workers=2, memory_bytes=2 * 1024**3)
atexit.register(POOL.close)
os.register_at_fork(after_in_child=POOL.forget)
