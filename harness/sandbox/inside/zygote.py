"""The long-lived process of a worker: loads modules once, raises the walls, then forks one process per program.

It is started fresh, so its memory holds no answers and no secrets, and it never reads a program, so no later program
can find an earlier one in what it inherits. It judges nothing: it says how a process ended and what it used.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

from . import files, jail, kernel, policy, sealing

LOOK_EVERY_S = 0.1
_MOST_DESCRIPTORS = 5
_MESSAGE_BYTES = 1 << 16
KILL, CLOCK = b"k", b"c"


class _AllowedPackages:
    """Finds the packages programs may import, and nothing else of the folders they are installed in."""

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


def main(control_fd: int, first_run: bool) -> None:
    if first_run:
        _start_again_with_a_large_stack(control_fd)
    control = socket.socket(fileno=control_fd)
    settings = json.loads(control.recv(_MESSAGE_BYTES))
    try:
        worker = _Worker(control, settings)
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return
    control.send(json.dumps({"landlock": kernel.landlock_version(), "user": os.geteuid()}).encode())
    worker.serve()


def _start_again_with_a_large_stack(control_fd: int) -> None:
    """The room for the main stack is laid out at exec. Programs recurse deeply through functions written in C."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    wanted = sealing.MACHINE_STACK_BYTES
    room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (room, hard))
    os.set_inheritable(control_fd, True)
    os.execv(sys.executable, [*sys.orig_argv[:-1], "again"])


class _Worker:
    def __init__(self, control: socket.socket, settings: Mapping[str, Any]) -> None:
        self._control = control
        level = settings["level"]
        sys.meta_path.append(_AllowedPackages(settings["packages"]))
        for name in settings["preload"]:
            importlib.import_module(name)
        folders = settings["folders"]
        self._own_namespace = jail.enter(files.mounted(folders)) if level == "namespaces" else None
        opens = level in ("landlock", "namespaces")
        if os.geteuid() == 0 and (level == "sealed" or not settings["runtime_is_private"]):
            jail.become_nobody()
        self._walls = sealing.Walls(
            filter_code=policy.compile_filter(kernel.MACHINE, may_open=opens) if level != "limits" else None,
            landlock=os.dup2(files.ruleset(files.readable(folders)), sealing.LANDLOCK_FD) if opens else None,
            owns_namespace=self._own_namespace is not None,
        )
        # Python ignores these two, and programs would swallow the exceptions they become.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        self._ready = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """One reply for each request, until the other side is gone."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, _MOST_DESCRIPTORS)
            if not message:
                return
            if message in (KILL, CLOCK):  # came too late for the run it was meant for
                continue
            request = sealing.Request(*json.loads(message))
            reply = self._run(request, descriptors)
            self._control.send(json.dumps(reply).encode())

    def _run(self, request: sealing.Request, descriptors: list[int]) -> dict[str, Any]:
        began = time.monotonic()
        try:
            pid = self._fork(request, descriptors)
            killed_for = self._watch(pid, began, request, descriptors[2])
            _, status, used = os.wait4(pid, 0)
        finally:
            for fd in descriptors:
                os.close(fd)
        try:
            said = os.read(self._ready[0], 1000)
        except BlockingIOError:
            said = b"nothing"
        return {
            "trouble": None if said == sealing.READY else said.decode(errors="replace"),
            "status": status,
            "killed_for": killed_for,
            "cpu_s": used.ru_utime + used.ru_stime,
            "memory_bytes": used.ru_maxrss << 10,
            "wall_s": time.monotonic() - began,
        }

    def _fork(self, request: sealing.Request, descriptors: Sequence[int]) -> int:
        if self._own_namespace is not None:
            kernel.unshare(kernel.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            sealing.become_program(self._walls, request, descriptors, self._ready[1])
        if self._own_namespace is not None:
            kernel.setns(self._own_namespace, kernel.CLONE_NEWPID)
        return pid

    def _watch(self, pid: int, began: float, request: sealing.Request, stdout: int) -> str | None:
        """Wait for the end of a process, and bring it about where a limit asks for it."""
        handle = os.pidfd_open(pid)
        clock = ((~pid) << 3) | 2  # the CPU clock of another process
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        killed_for = None
        try:
            while killed_for is None:
                cpu_s, wall_s = time.clock_gettime(clock), time.monotonic() - began
                killed_for = _limit_reached(request, cpu_s, wall_s, os.fstat(stdout).st_size)
                if killed_for is not None:
                    break
                left = min(request.cpu_s - cpu_s, request.wall_s - wall_s, LOOK_EVERY_S)
                ready = {fd for fd, _ in poll.poll(left * 1000 + 1)}
                if handle in ready:
                    return None
                if self._control.fileno() in ready:
                    killed_for = self._told(clock)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
        return killed_for

    def _told(self, clock: int) -> str | None:
        """A word from the other side during a run: end it, or tell how much CPU time it used."""
        message = self._control.recv(1)
        if message == CLOCK:
            self._control.send(json.dumps({"clock": time.clock_gettime(clock)}).encode())
            return None
        return "asked"


def _limit_reached(request: sealing.Request, cpu_s: float, wall_s: float, output_bytes: int) -> str | None:
    if cpu_s >= request.cpu_s:
        return "cpu"
    if wall_s >= request.wall_s:
        return "wall"
    return "output" if output_bytes >= request.output_bytes else None
