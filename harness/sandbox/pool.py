"""A pool of workers that run programs: started on first use, replaced on failure, exclusive on request."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Sequence

from harness.core.errors import SandboxError, UsageError
from harness.core.types import Call, Execution, Language, Limits, Program
from harness.sandbox import compiler, isolation, worker
from harness.sandbox.calls import Look
from harness.sandbox.isolation import MEANING, Level
from harness.sandbox.worker import InterruptedProgramError, Job, Worker

_ATTEMPTS = 3
_TRIAL = Limits(cpu_s=2.0, wall_s=10.0, memory_bytes=256 << 20)


class Pool:
    """A sandbox of several workers for any number of threads. Verdicts don't depend on the number of workers."""

    def __init__(self, level: Level, n_workers: int, executable: Sequence[str] = ()) -> None:
        """Create a pool; with paths of executables it is a pool of compilers, see `Worker`."""
        self.level = level
        self._executable = executable
        self.n_workers = n_workers
        self._idle: list[Worker] = []
        self._places = threading.BoundedSemaphore(n_workers)
        self._lock, self._only_one_alone = threading.Lock(), threading.Lock()
        self._n_running = 0
        self._owner = os.getpid()
        atexit.register(self.close)

    def run(self, program: Program, stdin: bytes, limits: Limits) -> Execution:
        job = self._job(program, stdin)
        return job if isinstance(job, Execution) else self.run_job(job, limits)

    def run_job(self, job: Job, limits: Limits) -> Execution:
        with self._places, self._lent() as lent:
            return self._attempt(lent, job, limits)

    def call(
        self, program: Program, function: str, calls: Sequence[Call], limits: Limits, look: Look | None = None
    ) -> Execution:
        """Make all calls in one process. `look` receives each answer, which is then not stored; if a worker fails, it
        starts over from the first call.
        """
        if not calls:
            raise ValueError("calls must not be empty")
        return self.run_job(_function(program, function, calls, look), limits)

    def run_alone(self, program: Program, stdin: bytes, limits: Limits) -> Execution:
        """Call `run` while no other program runs in this pool."""
        job = self._job(program, stdin)
        if isinstance(job, Execution):
            return job
        with self._alone() as lent:
            return self._attempt(lent, job, limits)

    def call_alone(
        self, program: Program, function: str, calls: Sequence[Call], limits: Limits, look: Look | None = None
    ) -> Execution:
        with self._alone() as lent:
            return self._attempt(lent, _function(program, function, calls, look), limits)

    def check(self, language: Language) -> None:
        """Raise UsageError if programs in a language can't be run here."""
        if language == "cpp":
            ended = self.run(Program(compiler.HELLO, language="cpp"), b"41", _TRIAL)
            if ended.stdout != b"42":
                message = ended.stderr.decode(errors="replace").strip()
                raise UsageError(
                    f"C++ can't be run here: a first program ended as {ended.status} ({message}); programs are linked "
                    f"statically, so the static C++ library must be installed as well"
                )

    @property
    def is_crowded(self) -> bool:
        """Return whether measured times are those of a loaded machine."""
        n_cores = os.cpu_count()
        return self._n_running > 0 or os.getloadavg()[0] > (n_cores if n_cores is not None else 1)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def _job(self, program: Program, stdin: bytes) -> Job | Execution:
        """Return the job to run, or how its compiler ended without an executable."""
        if program.language == "python":
            return worker.script(program, stdin)
        built = _builder(os.getpid()).build(program.source)
        return Job(built, stdin, kind="binary") if isinstance(built, bytes) else built

    def _attempt(self, lent: list[Worker], job: Job, limits: Limits) -> Execution:
        """Run a job, with another worker after a failure: it happened before the program started, so it is not the
        program's.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._on_a_worker(lent, job, limits)
            except InterruptedProgramError:
                raise
            except SandboxError:
                continue
        return self._on_a_worker(lent, job, limits)

    def _on_a_worker(self, lent: list[Worker], job: Job, limits: Limits) -> Execution:
        if not lent:
            lent.append(Worker(self.level, self._executable))
        try:
            return lent[0].run(job, limits)
        except BaseException:
            lent.pop().close()
            raise

    @contextlib.contextmanager
    def _lent(self) -> Iterator[list[Worker]]:
        if self._owner != os.getpid():
            raise SandboxError("a sandbox was used after a fork; open another one in the new process")
        with self._lock:
            self._n_running += 1
            lent = [self._idle.pop()] if self._idle else []
        try:
            yield lent
        finally:
            with self._lock:
                self._n_running -= 1
                self._idle += lent

    @contextlib.contextmanager
    def _alone(self) -> Iterator[list[Worker]]:
        with self._only_one_alone, contextlib.ExitStack() as stack:
            for _ in range(self.n_workers):
                stack.enter_context(self._places)
            yield stack.enter_context(self._lent())


def _function(program: Program, function: str, calls: Sequence[Call], look: Look | None) -> Job:
    if program.language != "python":
        raise UsageError("only Python functions can be called; a program in another language must read stdin")
    return worker.function(program, function, calls, look)


@functools.cache
def strongest() -> tuple[Level, tuple[tuple[Level, str], ...]]:
    """Return the strongest level that works here, by trying, and why stronger ones don't."""
    isolation.refuse_other_systems()
    failures: list[tuple[Level, str]] = []
    for level in sorted(Level, reverse=True):
        try:
            Worker(level).close()
        except SandboxError as error:
            failures.append((level, str(error)))
        else:
            return level, tuple(failures)
    raise UsageError(f"no program can be run here, not even with resource limits alone: {failures[-1][1]}")


def open_pool(least: Level = Level.SEALED, n_workers: int | None = None) -> Pool:
    """Return a pool at the strongest level. Raises UsageError if that is weaker than `least`."""
    level, failures = strongest()
    if level < least:
        reasons = "; ".join(f"{failed.title}: {why}" for failed, why in failures)
        raise UsageError(
            f"model-written programs run at the level {least.title!r} or better, and this machine has {level.title!r} "
            f"({MEANING[level]}); {reasons}; to run them anyway, set the grader's least_level to {level.title!r}"
        )
    return shared(level, n_workers if n_workers is not None else _n_cores(), os.getpid())


@functools.cache
def shared(level: Level, n_workers: int, _process: int) -> Pool:
    """Return the pool shared by all graders of a process."""
    return Pool(level, n_workers)


@functools.cache
def _builder(_process: int) -> compiler.Builder:
    """Return the builder shared by all pools of a process. Raises UsageError if nothing can be compiled."""
    level = strongest()[0]
    compiler.refuse_weak_level(level)
    return compiler.Builder(Pool(level, _n_cores(), compiler.executable_paths()).run_job)


def _n_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))
