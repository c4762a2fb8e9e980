"""The long-lived process of a worker: load modules once, set up isolation, then fork one process per program.

It is started fresh, so its memory holds no answers and no secrets. It never reads a program, so no program can find an
earlier one in what it inherits. It judges nothing: it reports how a process ended and what it used.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import marshal
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

from . import landlock, lockdown, namespaces, programs, run_queue, seccomp, syscalls, tmpdir

LOOK_EVERY_S = 0.1
MOST_STRETCH = 10
"""A program that waits for a core may take this many times its wall limit; then the machine is too busy to judge it."""
_MOST_DESCRIPTORS = 6
_MESSAGE_BYTES = 1 << 16
_LINKS_OF_A_FOLDER = 2
_SENT_TO_ALL = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that shells and job schedulers send to every process of a job: no program may seem to have failed by them."""
KILL, CLOCK = b"k", b"c"
_ENDED = struct.Struct("<c6sidqdd")  # E, cause, status, CPU s, bytes, wall s, waited s; then the error message


class _AllowedPackages:
    """Finds the packages that programs may import, and nothing else in their folders."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        place = self._places.get(name)
        if place is None:
            return None
        inner = [os.path.dirname(place)] if place.endswith("__init__.py") else None
        return importlib.util.spec_from_file_location(name, place, submodule_search_locations=inner)


def read_reply(message: bytes) -> dict[str, Any]:
    """Parse a reply. Used by the parent."""
    if not message.startswith(b"E"):
        reply: dict[str, Any] = json.loads(message)
        return reply
    _, cause, *values = _ENDED.unpack_from(message)
    names = ("status", "cpu_s", "memory_bytes", "wall_s", "waited_s")
    ended: dict[str, Any] = dict(zip(names, values, strict=True))
    trouble = message[_ENDED.size :].decode(errors="replace")
    return {**ended, "killed_for": cause.rstrip(b"\0").decode() or None, "trouble": trouble or None}


def main(control_fd: int, requests_fd: int, first_run: bool) -> None:
    if first_run:
        _start_again_with_a_large_stack(control_fd, requests_fd)
    control = socket.socket(fileno=control_fd)
    settings = json.loads(control.recv(_MESSAGE_BYTES))
    try:
        worker = _Worker(control, requests_fd, settings)
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return
    try:
        control.send(json.dumps({"scratch": worker.scratch.on_disk if worker.scratch is not None else None}).encode())
        worker.serve()
    finally:
        if worker.scratch is not None:
            worker.scratch.remove()


def _start_again_with_a_large_stack(*inherited: int) -> None:
    """Re-execute: the size of the main stack is fixed at exec. Programs recurse deeply through C functions."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    wanted = lockdown.MACHINE_STACK_BYTES
    room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (room, hard))
    for fd in inherited:
        os.set_inheritable(fd, True)
    os.execv(sys.executable, [*sys.orig_argv[:-1], "again"])


class _Worker:
    def __init__(self, control: socket.socket, requests_fd: int, settings: Mapping[str, Any]) -> None:
        self._control, self._cores = control, os.sched_getaffinity(0)
        self._proc = run_queue.open_proc()
        level = settings["level"]
        sys.meta_path.append(_AllowedPackages(settings["packages"]))
        for name in settings["preload"]:
            importlib.import_module(name)
        folders, executable = settings["folders"], settings["executable"]
        self._own_namespace = None
        if level == "namespaces":
            self._own_namespace = namespaces.enter(landlock.mounted([*folders, *executable]), requests_fd)
        else:
            namespaces.leave_outside(requests_fd)
        if os.geteuid() == 0 and (level == "sealed" or not settings["runtime_is_private"]):
            namespaces.become_nobody()
        syscalls.prctl(
            syscalls.PR_SET_PDEATHSIG, 9
        )  # the pid of the outer process; a change of user clears this setting
        self.scratch = _scratch(level, settings["scratch_parent"])
        self._walls = lockdown.Walls(
            filters=_filters(level, for_compiler=bool(executable)),
            landlock=_ruleset(level, folders, self.scratch, executable),
            owns_namespace=self._own_namespace is not None,
        )
        _set_signals()
        self._ready = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        lockdown.limit_worker()
        _prepare_interpreter()
        self._mains: dict[str, programs.Main] = {}
        self._main_for("")
        gc.collect()
        gc.freeze()

    def _main_for(self, prelude: str) -> programs.Main:
        if prelude not in self._mains:
            self._mains[prelude] = programs.prepared(prelude)
        return self._mains[prelude]

    def serve(self) -> None:
        """Send one reply per request until the other side is gone."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, _MOST_DESCRIPTORS)
            if not message:
                return
            if message in (KILL, CLOCK):  # arrived too late for its run
                continue
            request = lockdown.Request(*marshal.loads(message))  # only ever from the judge
            reply = self._run(request, descriptors)
            if self.scratch is not None:
                self.scratch.tidy()
            self._control.send(reply)

    def _run(self, request: lockdown.Request, descriptors: list[int]) -> bytes:
        began = time.monotonic()
        try:
            pid = self._fork(request, descriptors)
            killed_for, waited_s = self._watch(pid, began, request, descriptors[2])
            _, status, used = os.wait4(pid, 0)
            if request.kind == "compiler":
                _end_group(pid)
                if status == 0:
                    _copy_product(request, descriptors[2])
        finally:
            for fd in descriptors:
                os.close(fd)
        try:
            message = os.read(self._ready[0], 1000)
        except BlockingIOError:
            message = b"nothing"
        cause = killed_for.encode() if killed_for is not None else b""
        cpu_s, memory_bytes, wall_s = used.ru_utime + used.ru_stime, used.ru_maxrss << 10, time.monotonic() - began
        trouble = b"" if message == lockdown.READY else message
        return _ENDED.pack(b"E", cause, status, cpu_s, memory_bytes, wall_s, waited_s) + trouble

    def _fork(self, request: lockdown.Request, descriptors: Sequence[int]) -> int:
        if self._own_namespace is not None:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        main = self._main_for(request.prelude)
        pid = syscalls.fork()
        if pid == 0:
            lockdown.become_program(self._walls, request, main, descriptors, self._ready[1])
        if self._own_namespace is not None:
            syscalls.setns(self._own_namespace, syscalls.CLONE_NEWPID)
        return pid

    def _watch(self, pid: int, began: float, request: lockdown.Request, stdout: int) -> tuple[str | None, float]:
        """Wait for the end of a process, and kill it at a limit. Return it, and the time of waiting for a core."""
        handle = os.pidfd_open(pid)
        waiting = run_queue.Waiting(self._proc, handle, began)
        clock = ((~pid) << 3) | 2  # the CPU clock of another process
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        killed_for = None
        try:
            while killed_for is None:
                cpu_s, wall_s = time.clock_gettime(clock), time.monotonic() - began
                if wall_s >= LOOK_EVERY_S:
                    waiting.look()
                own_wall_s = wall_s - waiting.total_s
                killed_for = _limit_reached(request, cpu_s, own_wall_s, wall_s, os.fstat(stdout).st_size)
                if (
                    self.scratch is not None
                    and killed_for is None
                    and wall_s >= LOOK_EVERY_S
                    and self.scratch.is_over()
                ):
                    killed_for = "output"
                if killed_for is None and wall_s >= LOOK_EVERY_S and self._has_too_many_threads(pid):
                    killed_for = "thread"
                if killed_for is not None:
                    break
                left = min(request.cpu_s - cpu_s, request.wall_s - own_wall_s, LOOK_EVERY_S)
                ready = {fd for fd, _ in poll.poll(left * 1000 + 1)}
                if handle in ready:
                    return None, waiting.total_s
                if self._control.fileno() in ready:
                    killed_for = self._told(clock, waiting)
                if not ready:
                    self._let_go(pid)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            waiting.close()
            os.close(handle)
        return killed_for, waiting.total_s

    def _has_too_many_threads(self, pid: int) -> bool:
        """Count threads where the kernel does not; a program's user may have any number elsewhere."""
        if self._own_namespace is not None:
            return False
        try:
            return os.stat(f"/proc/{pid}/task").st_nlink - _LINKS_OF_A_FOLDER > lockdown.MOST_THREADS
        except OSError:  # it has ended, or there is no /proc
            return False

    def _let_go(self, pid: int) -> None:
        """Allow a long-running program on any core."""
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, self._cores)

    def _told(self, clock: int, waiting: run_queue.Waiting) -> str | None:
        """Handle a message during a run: end it, or report the CPU time used."""
        message = self._control.recv(1)
        if message == CLOCK:
            waiting.look()
            self._control.send(json.dumps({"clock": [time.clock_gettime(clock), waiting.total_s]}).encode())
            return None
        return "asked"


def _limit_reached(
    request: lockdown.Request, cpu_s: float, own_wall_s: float, wall_s: float, output_bytes: int
) -> str | None:
    """Return the limit that is reached. `own_wall_s` is the wall time without that of waiting for a core."""
    if cpu_s >= request.cpu_s:
        return "cpu"
    if own_wall_s >= request.wall_s:
        return "wall"
    if wall_s >= request.wall_s * MOST_STRETCH:
        return "starve"
    return "output" if output_bytes >= request.output_bytes else None


def _scratch(level: str, parent: str) -> tmpdir.Scratch | None:
    """Return where programs may write, or None where that can't be bounded."""
    if level == "namespaces" and landlock.can_hold_writing():
        return tmpdir.MountedScratch()
    if level == "limits" or (level == "landlock" and landlock.can_hold_writing()):
        return tmpdir.FolderScratch(parent)
    os.chdir("/")
    return None


def _filters(level: str, *, for_compiler: bool) -> dict[lockdown.Kind, bytes]:
    kinds: tuple[lockdown.Kind, ...] = ("compiler",) if for_compiler else ("python", "binary")
    opens = level in ("landlock", "namespaces")
    if level == "limits":
        return {}
    codes = {kind: seccomp.compile_filter(syscalls.MACHINE, may_open=opens, kind=kind) for kind in kinds}
    # Each program is process 1 of its own namespace there.
    return {kind: seccomp.with_pid(code, 1) for kind, code in codes.items()} if level == "namespaces" else codes


def _ruleset(level: str, folders: Sequence[str], room: tmpdir.Scratch | None, executable: Sequence[str]) -> int | None:
    if level not in ("landlock", "namespaces"):
        return None
    # In a jail, mount the folder around it: its content changes, and the folder itself is read-only.
    writable = None if room is None else tmpdir.HOLDER if level == "namespaces" else room.path
    return os.dup2(landlock.ruleset(landlock.readable(folders), writable, executable), lockdown.LANDLOCK_FD)


def _set_signals() -> None:
    """Set what signals do, whatever the caller ignores. Python would ignore SIGPIPE and SIGXFSZ."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in _SENT_TO_ALL else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _prepare_interpreter() -> None:
    """Do everything in advance that each program's process would otherwise do at its own cost."""
    kept = [os.dup(fd) for fd in range(3)]
    for fd in range(3):
        file = os.memfd_create("stand-in")
        os.dup2(file, fd)
        os.close(file)
    programs.set_up_interpreter()
    for fd, old in enumerate(kept):
        os.dup2(old, fd)
        os.close(old)
    random.seed(0)  # the same for all programs, so that verdicts don't depend on chance
    for name in [name for name in sys.modules if name.partition(".")[0] == "inside"]:
        del sys.modules[name]  # programs should not find these


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _copy_product(request: lockdown.Request, stdout: int) -> None:
    """Copy the output of a compiler into the file that its caller reads."""
    try:
        fd = os.open(request.product, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.ftruncate(stdout, 0)
        os.lseek(stdout, 0, os.SEEK_SET)
        while os.sendfile(stdout, fd, None, 1 << 20):
            pass
    finally:
        os.close(fd)
