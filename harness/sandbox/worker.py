"""The parent's side of a worker: starts it as a fresh process, sends programs one at a time, replaces it on failure."""

from __future__ import annotations

import contextlib
import fcntl
import json
import marshal
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import SandboxError
from harness.core.types import Answer, Call, Execution, ExecutionStatus, Limits, Program
from harness.sandbox import isolation
from harness.sandbox.calls import AnswerWatch, Look
from harness.sandbox.inside import caller, lockdown, programs, tmpdir
from harness.sandbox.inside.programs import DID_NOT_COMPILE
from harness.sandbox.inside.zygote import MOST_STRETCH, read_reply
from harness.sandbox.isolation import Level

_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import inside.zygote as z; del sys.path[0]; "
    "z.main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == 'first')"
)
# An empty environment: the caller's variables are not passed on.
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "HOME": "/",
}
_MESSAGE_BYTES = 1 << 16
_START_S = 60.0
_GRACE_S = 5.0
_STDERR_BYTES = 16 << 10
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_DEATHS_OF_MEMORY = (signal.SIGSEGV, signal.SIGABRT)
_COMPLAINTS_OF_MEMORY = (b"MemoryError", b"numpy._core._exceptions._ArrayMemoryError")


@dataclass(frozen=True, slots=True)
class Job:
    """The process to run: its request, and whether it answers calls."""

    payload: bytes
    stdin: bytes = b""
    calls: Sequence[Call] = ()
    prelude: str = ""
    look: Look | None = None
    kind: lockdown.Kind = "python"
    arguments: Sequence[str] = ()
    product: str = ""


def script(program: Program, stdin: bytes) -> Job:
    return Job(programs.script_payload(program.source), stdin, (), program.prelude)


def function(program: Program, name: str, calls: Sequence[Call], look: Look | None = None) -> Job:
    payload = programs.function_payload(program.source, name, packs=look is not None)
    return Job(payload, b"", calls, program.prelude, look)


class InterruptedProgramError(SandboxError):
    """The machine killed a program, or gave it no processor time: its end shows nothing about it."""


class Worker:
    """A worker process. Raises SandboxError if it can't be started or fails."""

    def __init__(self, level: Level, executable: Sequence[str] = ()) -> None:
        """Start a worker; with the paths of executables and what they read, it runs compilers in place of programs."""
        self._scratch: str | None = None
        self._opened = contextlib.ExitStack()
        try:
            self._socket, self._asker, self._complaints, self._process = self._started()
        except OSError as error:
            self._opened.close()
            raise SandboxError(f"a worker can't be started: {error}") from error
        self._socket.settimeout(_START_S)
        try:
            self._socket.send(_settings(level, executable))
            self._scratch = self._reply()["scratch"]
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise SandboxError(f"a worker can't be started: {error}") from error
            raise

    def _started(self) -> tuple[socket.socket, socket.socket, int, subprocess.Popen[bytes]]:
        """Return the sockets to both of its processes, its stderr, and the process."""
        enter = self._opened.enter_context
        with contextlib.ExitStack() as theirs:
            pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
            ours = [enter(our_end) for our_end, _ in pairs]
            fds = tuple(theirs.enter_context(their_end).fileno() for _, their_end in pairs)
            complaints = os.memfd_create("complaints")
            self._opened.callback(os.close, complaints)
            folder = str(Path(__file__).parent)
            flags = ["-I", "-S", "-B", "-X", "utf8", "-c", _START]
            process = subprocess.Popen(
                [isolation.interpreter(), *flags, folder, *map(str, fds), "first"],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        return ours[0], ours[1], complaints, process

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, job: Job, limits: Limits) -> Execution:
        try:
            return self._run(job, limits)
        except OSError as error:
            raise SandboxError(f"the resources of a program's process are not available: {error}") from error

    def _run(self, job: Job, limits: Limits) -> Execution:
        with contextlib.ExitStack() as stack:
            given = [stack.enter_context(_memory_file(data, sealed=True)) for data in (job.payload, job.stdin)]
            stdout, stderr = (stack.enter_context(_memory_file(b"", sealed=False)) for _ in range(2))
            watch = stack.enter_context(AnswerWatch(job.calls, job.look)) if job.calls else None
            fds = [*given, stdout, stderr, *(watch.for_program if watch is not None else ())]
            asked = [limits.cpu_s, limits.wall_s, limits.memory_bytes, limits.output_bytes]
            request = (*asked, job.prelude, job.kind, tuple(job.arguments), job.product)
            self._socket.settimeout(limits.wall_s * MOST_STRETCH + _GRACE_S)
            ended = self._exchange(marshal.dumps(request), fds, watch)
            if ended["trouble"] is not None:
                raise SandboxError(f"a worker could not isolate a program's process: {ended['trouble']}")
            return _execution(ended, limits, stdout, stderr, watch)

    def _exchange(self, request: bytes, fds: Sequence[int], watch: AnswerWatch | None) -> dict[str, Any]:
        try:
            socket.send_fds(self._socket, [request], list(fds))
            if watch is not None:
                with _memory_file(_packed(watch.calls), sealed=True) as calls:
                    socket.send_fds(self._asker, [b"a"], [calls, *watch.for_asker])
                watch.close_their_ends()
                if (ended := watch.collect(self._socket)) is not None:
                    return ended
        except OSError as error:
            raise SandboxError(f"a worker is gone: {error}; {self._complaint()}") from None
        while "clock" in (reply := self._reply()):
            pass
        return reply

    def _reply(self) -> dict[str, Any]:
        try:
            message = self._socket.recv(_MESSAGE_BYTES)
        except OSError as error:
            raise SandboxError(f"a worker does not answer: {error}; {self._complaint()}") from None
        if not message:
            raise SandboxError(f"a worker ended: {self._complaint()}")
        reply = read_reply(message)
        if "failed" in reply:
            raise SandboxError(reply["failed"])
        return reply

    def _complaint(self) -> str:
        return os.pread(self._complaints, 2000, 0).decode(errors="replace").strip() or "no error output"

    def close(self) -> None:
        self._asker.close()
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):  # the inner process dies with it, which closes the pipe
            self._socket.settimeout(_GRACE_S)
            while self._socket.recv(_MESSAGE_BYTES):
                pass
        self._opened.close()
        if self._scratch is not None:
            tmpdir.remove_if_left(self._scratch, patience_s=_GRACE_S)


def _settings(level: Level, executable: Sequence[str]) -> bytes:
    places = isolation.package_places() if level != Level.SEALED else {}
    folders = isolation.package_folders(places)
    settings = {
        "level": level.title,
        "preload": isolation.preloaded(level),
        "packages": places,
        "folders": folders,
        "executable": executable,
        "scratch_parent": tempfile.gettempdir(),
        "runtime_is_private": isolation.runtime_is_private(folders),
    }
    return json.dumps(settings).encode()


def _packed(calls: Sequence[Call]) -> bytes:
    return caller.packed([(call.answer_bytes, call.arguments) for call in calls])


@contextlib.contextmanager
def _memory_file(content: bytes, *, sealed: bool) -> Iterator[int]:
    fd = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        written = 0
        while written < len(content):  # does not change where reading begins
            written += os.pwrite(fd, memoryview(content)[written:], written)
        if sealed:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        yield fd
    finally:
        os.close(fd)


def _execution(ended: dict[str, Any], limits: Limits, stdout: int, stderr: int, watch: AnswerWatch | None) -> Execution:
    code = os.waitstatus_to_exitcode(ended["status"])
    size = os.fstat(stderr).st_size
    complaint = os.pread(stderr, _STDERR_BYTES, max(0, size - _STDERR_BYTES))
    written = os.fstat(stdout).st_size
    answers: tuple[Answer, ...] = tuple(watch.answers) if watch is not None else ()
    if watch is not None and (watch.is_complete or watch.cause is not None):
        ended = {**ended, "killed_for": watch.cause}
        code = 0
    _raise_if_interrupted(ended, code, limits)
    return Execution(
        status=_status(ended, code, complaint, written, limits),
        exit_code=abs(code),
        stdout=os.pread(stdout, min(written, limits.keep_bytes + 1), 0),
        stderr=complaint,
        cpu_s=ended["cpu_s"],
        wall_s=ended["wall_s"],
        memory_bytes=ended["memory_bytes"],
        answers=answers,
        waited_s=ended["waited_s"],
    )


def _raise_if_interrupted(ended: dict[str, Any], code: int, limits: Limits) -> None:
    """Raise InterruptedProgramError if the machine ended a program, which can't send itself SIGKILL, see seccomp."""
    if ended["killed_for"] == "starve":
        raise InterruptedProgramError(
            f"a program waited for a processor for {ended['waited_s']:.1f} of {ended['wall_s']:.1f} s; the machine is "
            f"too busy: use fewer workers, or grade again later"
        )
    is_ours = ended["killed_for"] is not None or ended["cpu_s"] >= limits.cpu_s
    if code == -signal.SIGKILL and not is_ours and ended["memory_bytes"] <= limits.memory_bytes:
        raise InterruptedProgramError(
            f"a program was killed by the machine when it used {ended['memory_bytes'] >> 20} MiB, not at a limit; if "
            f"the kernel log names it out of memory, use fewer workers"
        )


def _status(ended: dict[str, Any], code: int, complaint: bytes, written: int, limits: Limits) -> ExecutionStatus:
    """Return the status by precedence: time, compile error, memory, output, then the exit status."""
    killed_for, died_of, memory = ended["killed_for"], max(-code, 0), ended["memory_bytes"]
    if killed_for == "cpu" or died_of == signal.SIGXCPU:
        return "cpu_limit"
    if killed_for == "wall":
        return "wall_limit"
    if code == DID_NOT_COMPILE:
        return "not_compiled"  # the resource that the compiler ran out of
    died_near_limit = died_of in _DEATHS_OF_MEMORY and memory >= 0.9 * limits.memory_bytes
    said_so = code > 0 and complaint.rstrip().rpartition(b"\n")[2].startswith(_COMPLAINTS_OF_MEMORY)
    if memory > limits.memory_bytes or died_near_limit or said_so:
        return "memory_limit"
    if killed_for == "output" or written >= limits.output_bytes or died_of == signal.SIGXFSZ:
        return "output_limit"
    return "signalled" if died_of else "exited"
